"""`tracetune traces`: look at what went through the gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

from gateway.cli.root import config_option, json_option
from gateway.cli.trace_view import tail_line, trace_view
from gateway.cli.traces_export import export
from gateway.cli.traces_import import import_command
from gateway.config import load_config
from gateway.errors import OperationError
from gateway.traces.bodies import place_of
from gateway.traces.body_reads import local_reader, record_read
from gateway.traces.sealing import PREFIX
from gateway.traces.store import Store, open_store

FOLLOW_EVERY_S = 1.0
# Rows of one insert become visible a little after their `stored_at`; this far back is looked at again.
FOLLOW_OVERLAP = timedelta(seconds=30)
MAX_FOLLOWED = 10_000
_QUESTION_CHARACTERS = 120
_TAIL = """
SELECT trace_id, started_at, stored_at, route, variant, model, outcome, status, stream, latency_ms, tokens_in,
       tokens_out, cost_usd, client, session,
       if(
           startsWith(ifNull(request, ''), {sealed:String}),
           '(encrypted; `tracetune traces show` reads it)',
           leftUTF8(JSONExtractString(ifNull(request, ''), 'messages', -1, 'content'), {characters:UInt16})
       ) AS question
FROM traces
WHERE ({route:String} = '' OR route = {route:String}) AND stored_at >= {since:DateTime64(3, 'UTC')}
ORDER BY started_at DESC
LIMIT {limit:UInt32}
"""


@click.group()
def traces() -> None:
    """Look at what went through the gateway, and take it elsewhere."""


traces.add_command(export)
traces.add_command(import_command)


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
        for row in _tail(store, route=route, count=count, follow=follow):
            if as_json:
                click.echo(json.dumps(row, ensure_ascii=True, default=_jsonable))
            else:
                console.print(tail_line(row, width))


@traces.command()
@click.argument("trace_id")
@config_option
@json_option
def show(trace_id: str, config_path: Path, as_json: bool) -> None:
    """Print one trace: the conversation, its attempts, its judgments and its feedback."""
    with open_store(load_config(config_path)) as store:
        parameters = {"id": trace_id}
        found = store.query("SELECT * FROM traces WHERE trace_id = {id:String} LIMIT 1", parameters)
        if not found:
            raise OperationError(
                f"no trace {trace_id!r} in the store; `tracetune traces tail` lists the last ones"
            )
        record_read(store, local_reader(), "show", [trace_id])
        judgments = store.query(
            "SELECT judge, version, score, reason, judged_at FROM judgments "
            "WHERE trace_id = {id:String} ORDER BY judge, judged_at",
            parameters,
        )
        feedback = store.query(
            "SELECT feedback_id, trace_id, session, client, kind, value, text, created_at FROM feedback "
            "WHERE trace_id = {id:String} OR (trace_id IS NULL AND session = {session:String}) "
            "ORDER BY created_at",
            {**parameters, "session": found[0]["session"]},
        )
        _make_readable(store, found[0], feedback)
    if as_json:
        whole = {"trace": _with_decoded_bodies(found[0]), "judgments": judgments, "feedback": feedback}
        click.echo(json.dumps(whole, ensure_ascii=True, indent=2, default=_jsonable))
    else:
        Console(highlight=False).print(trace_view(found[0], judgments, feedback))


def _make_readable(store: Store, trace: dict[str, Any], feedback: list[dict[str, Any]]) -> None:
    """Put readable texts in place of those stored. Raises OperationError for one that is damaged."""
    for column in ("request", "response"):
        if trace[column] is not None:
            place = place_of("traces", column, trace["trace_id"])
            trace[column] = store.bodies.text(trace[column], place)
    for row in feedback:
        if row["text"] is not None:
            row["text"] = store.bodies.text(row["text"], place_of("feedback", "text", row["feedback_id"]))


def _tail(store: Store, *, route: str, count: int, follow: bool) -> Iterator[dict[str, Any]]:
    """The last *count* rows, then those that arrive, each once."""
    seen: dict[str, datetime] = {}
    parameters: dict[str, Any] = {"route": route, "characters": _QUESTION_CHARACTERS, "sealed": PREFIX}
    since, limit = datetime.fromtimestamp(0, UTC), count
    # What is in the store before the first look, and is not among the last, is not news.
    news_from = _now(store) if follow else since
    while True:
        rows = store.query(_TAIL, {**parameters, "since": since, "limit": limit})
        new = [row for row in reversed(rows) if row["trace_id"] not in seen]
        seen |= {row["trace_id"]: row.pop("stored_at") for row in new}
        if new:
            record_read(store, local_reader(), "tail", [row["trace_id"] for row in new])
        yield from new
        if not follow:
            return
        time.sleep(FOLLOW_EVERY_S)
        since, limit = max(news_from, _now(store) - FOLLOW_OVERLAP), MAX_FOLLOWED
        seen = {trace_id: arrived for trace_id, arrived in seen.items() if arrived >= since}


def _now(store: Store) -> datetime:
    """The store's clock: `stored_at` is taken from it."""
    now: datetime = store.query("SELECT now64(3, 'UTC') AS now")[0]["now"]
    return now


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
