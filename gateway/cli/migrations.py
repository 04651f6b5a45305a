"""`tracetune migrations`: what the store's tables were brought to, and the way back to an older version's."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.table import Table

from gateway.cli.root import config_option, json_option
from gateway.config import Config, load_config
from gateway.errors import OperationError, StoreUnreachableError
from gateway.traces.layout import layout_of
from gateway.traces.migrate import applied_migrations, shipped_migrations, step_back
from gateway.traces.store import Store, open_store


@click.group()
def migrations() -> None:
    """See what the store's tables were brought to, or take it back for an older version."""


@migrations.command(name="list")
@config_option
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """Print each migration of this version: whether the store has it, and whether it can be taken back."""
    config = load_config(config_path)
    with open_store(config) as store:
        applied = applied_migrations(store)
    rows = [
        {
            "migration": migration.name,
            "applied": migration.name in applied,
            "reversible": migration.down is not None,
        }
        for migration in shipped_migrations()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("migration", "applied", "can be taken back")
    for row in rows:
        table.add_row(
            str(row["migration"]), *("yes" if row[key] else "no" for key in ("applied", "reversible"))
        )
    Console(highlight=False).print(table)


@migrations.command()
@click.option(
    "--to", "number", type=click.IntRange(0), required=True, help="The last one that stays, by number."
)
@config_option
@json_option
def revert(number: int, config_path: Path, as_json: bool) -> None:
    """Take back the migrations above a number, newest first, to go back to an older version of tracetune.

    Stop every tracetune on the store first; any start of this version applies them again. Rows stay where the
    older tables have a place for them.
    """
    config = load_config(config_path)
    _refuse_running(config)
    with open_store(config) as store:
        taken = step_back(store, number, layout=layout_of(config.store))
    if as_json:
        click.echo(json.dumps({"reverted": taken}))
    elif taken:
        click.echo("\n".join(f"took back {name}" for name in taken))
    else:
        click.echo(f"nothing to take back: the store has no migration above {number}")


def _refuse_running(config: Config) -> None:
    """An embedded store that runs has a gateway that writes to it. Of another one we cannot know."""
    if not config.store.embedded:
        return
    try:
        Store.connect(config).close()
    except StoreUnreachableError:
        return
    raise OperationError("the store is in use; stop `tracetune up` before its tables are taken back")
