"""`tracetune traces`: look at what went through the gateway, and take it elsewhere."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

from gateway.cli.erase import erase
from gateway.cli.quarantine import quarantine
from gateway.cli.root import config_option, json_option
from gateway.cli.trace_view import tail_line, trace_view
from gateway.cli.traces_export import export
from gateway.cli.traces_import import import_command
from gateway.config import load_config
from gateway.traces.bodies.reads import local_reader
from gateway.traces.show import show_trace
from gateway.traces.store import open_store
from gateway.traces.tail import MAX_FOLLOWED, tail_traces


@click.group()
def traces() -> None:
    """Look at what went through the gateway, and take it elsewhere."""


traces.add_command(export)
traces.add_command(import_command)


traces.add_command(erase)
traces.add_command(quarantine)


@traces.command()
@click.option("-n", "count", type=click.IntRange(0, MAX_FOLLOWED), default=20, show_default=True)
@click.option("--follow", is_flag=True, help="Go on printing traces as they arrive.")
@click.option("--route", default="", help="Only this route.")
@config_option
@json_option
def tail(count: int, follow: bool, route: str, config_path: Path, as_json: bool) -> None:
    """Print the last traces, one line each (two on a narrow terminal), the newest last."""
    console = Console(highlight=False, soft_wrap=True)
    width = console.width if console.is_terminal else None
    with open_store(load_config(config_path)) as store:
        for row in tail_traces(store, local_reader(), route=route, count=count, follow=follow):
            if as_json:
                click.echo(json.dumps(row, ensure_ascii=True, default=_jsonable))
            else:
                console.print(tail_line(row, width))


@traces.command()
@click.argument("trace_id")
@click.option("--full", is_flag=True, help="Print long bodies to their end.")
@config_option
@json_option
def show(trace_id: str, full: bool, config_path: Path, as_json: bool) -> None:
    """Print one trace: the conversation, its attempts, its judgments and its feedback."""
    with open_store(load_config(config_path)) as store:
        shown = show_trace(store, trace_id, local_reader())
    if as_json:
        whole = {
            "trace": _with_decoded_bodies(shown.trace),
            "judgments": shown.judgments,
            "feedback": shown.feedback,
        }
        click.echo(json.dumps(whole, ensure_ascii=True, indent=2, default=_jsonable))
    else:
        console = Console(highlight=False)
        whole_texts = full or not console.is_terminal  # what is piped is never cut
        console.print(
            trace_view(shown.trace, shown.judgments, shown.feedback, width=console.width, full=whole_texts)
        )


def _with_decoded_bodies(row: dict[str, Any]) -> dict[str, Any]:
    decoded = dict(row)
    for name in ("attempts", "usage", "request", "response"):
        try:
            decoded[name] = json.loads(row[name]) if row[name] is not None else None
        except ValueError:
            continue  # not JSON after all: shown as the text it is
    return decoded


def _jsonable(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
