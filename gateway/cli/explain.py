"""`tracetune explain`: where a request would go, and why."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table as TextTable

from gateway.cli.explanation import lines
from gateway.cli.root import config_option, json_option
from gateway.cli.terminal import plain_line
from gateway.config.load import load_config
from gateway.config.types import Config
from gateway.control.client import ControlClient, UnreachableError
from gateway.errors import OperationError
from gateway.explain import explain as explain_request
from gateway.explanation import Explanation
from gateway.overlay import unknown_upstream
from gateway.paths import paths_of
from gateway.salt import load_salt
from gateway.table import Table
from gateway.watch import SavedTable, load_table, table_path


class Answer(msgspec.Struct, frozen=True):
    """What is printed: the explanation, and from what it was taken."""

    source: str
    explanation: Explanation


@click.command()
@config_option
@click.option("--model", required=True, help='What the app sends as "model".')
@click.option("--session", help="The session, as in x-tracetune-session.")
@click.option("--subject", help="The subject, as in x-tracetune-user.")
@click.option("--client", default="", help="The name of the client's key.")
@json_option
def explain(
    config_path: Path, model: str, session: str | None, subject: str | None, client: str, as_json: bool
) -> None:
    """Say which variant would take a request, and why: from the running gateway, else its last table."""
    answer = _ask(load_config(config_path), model=model, session=session, subject=subject, client=client)
    if as_json:
        fields = {"source": answer.source, **msgspec.to_builtins(answer.explanation)}
        click.echo(msgspec.json.encode(fields).decode())
        return
    table = TextTable(box=None, pad_edge=False, show_header=False)
    for name, value in lines(answer.source, answer.explanation):
        table.add_row(name, plain_line(value))
    Console(markup=False).print(table)


def _ask(config: Config, *, model: str, session: str | None, subject: str | None, client: str) -> Answer:
    with ControlClient(config, os.environ) as gateway:
        try:
            found = gateway.explain(model, session, subject, client)
        except UnreachableError:
            pass
        else:
            return Answer(f"the running gateway at {gateway.url}", msgspec.convert(found, Explanation))
    table, source = _table_at_rest(config)
    salt_path = paths_of(config).state / "salt"
    explanation = explain_request(
        config,
        table,
        load_salt(salt_path.parent) if salt_path.exists() else None,
        model=model,
        session=session,
        subject=subject,
        client=client,
    )
    return Answer(source, explanation)


def _table_at_rest(config: Config) -> tuple[Table, str]:
    """The table that the gateway last had, unless the configuration can no longer serve it."""
    path = table_path(paths_of(config).state)
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=SavedTable)
    except FileNotFoundError:
        return load_table(config), "the configuration (no gateway runs, none has run)"
    except (OSError, msgspec.DecodeError) as error:
        raise OperationError(f"{path} cannot be read: {error}; remove it to use the configuration") from error
    variants = [variant for route in saved.table.routes.values() for variant in route.variants]
    missing = unknown_upstream(variants, config)
    if missing is not None or saved.table.default_upstream not in {None, *_upstreams(config)}:
        return load_table(config), "the configuration (no gateway runs, and its last table no longer fits)"
    saved_at = datetime.fromtimestamp(saved.saved_at_us // 1_000_000, UTC)
    return saved.table, f"the last saved table, of {saved_at:%Y-%m-%d %H:%M:%S} UTC (no gateway runs)"


def _upstreams(config: Config) -> set[str]:
    return {upstream.name for upstream in config.upstreams}
