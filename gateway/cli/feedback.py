"""`tracetune feedback import`: outcomes that are known days later, from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import rich_click as click

from gateway.cli.progress import counted
from gateway.cli.root import config_option, json_option, user_name
from gateway.config import Config, load_config
from gateway.errors import OperationError
from gateway.feedback_import import Imported, Importer
from gateway.outcome_file import JoinedOn, columns_of, read_outcomes
from gateway.paths import paths_of
from gateway.traces.bodies.writer import BodyWriter
from gateway.traces.erasure.erasures import ErasureList
from gateway.traces.redaction.redact import redaction_key
from gateway.traces.row_builder import keyring_to_write_with, row_builder
from gateway.traces.store import open_store

if TYPE_CHECKING:
    from gateway.traces.encryption.keyring import Keyring

SHOWN_UNMATCHED = 20  # lines named on the terminal; --json names up to MAX_REPORTED


@click.group()
def feedback() -> None:
    """What people and systems said of answers afterwards."""


@feedback.command(name="import")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--on", "on", type=click.Choice(["trace", "session", "tag"]), required=True, help="What joins.")
@click.option("--tag", metavar="NAME", help="With --on tag: the tag, and the column of the same name.")
@click.option(
    "--signal", "signals", metavar="COLUMN", multiple=True, help="A column that is a signal; repeatable."
)
@click.option("--client", help="Only traces of this client.")
@click.option("--by", help="Who imports, as the rows will say.  [default: the user's name]")
@click.option("--strict", is_flag=True, help="Exit with 1 where any line matches nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and import nothing.")
@config_option
@json_option
def import_(
    path: Path,
    on: JoinedOn,
    tag: str | None,
    signals: tuple[str, ...],
    client: str | None,
    by: str | None,
    config_path: Path,
    *,
    strict: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Import outcomes from FILE (.jsonl or .csv): each line names a trace, a session or a tag's value.

    The same file again adds nothing. Nothing is imported of a file with a line that cannot be read. Exits 1
    where no line matches a trace.
    """
    config = load_config(config_path)
    columns = columns_of(on, tag, signals)
    total = sum(1 for _ in read_outcomes(path, columns))
    with open_store(config) as store, counted("lines", total) as done_lines, _keyring(config) as keyring:
        importer = Importer(
            store,
            row_builder(config, None),
            on=on,
            tag=tag,
            client=client,
            by=by or user_name(),
            commit=keyring.commit if keyring is not None else lambda: None,
            erasures=ErasureList(paths_of(config).state),
            seal=BodyWriter(keyring).sealed_feedback,
            id_key=redaction_key(paths_of(config).state / "redaction_key"),
        )
        done = importer.run(
            read_outcomes(path, columns),
            now=datetime.now(UTC),
            dry_run=dry_run,
            told=done_lines,
        )
    if as_json:
        click.echo(msgspec.json.encode(done))
    else:
        _tell(path, done, dry_run=dry_run)
    missing = done.lines - done.matched
    if done.lines and not done.matched:
        raise OperationError(f"{path}: no line matches anything in the store; is --on {on} what joins them?")
    return OperationError.exit_code if strict and missing else 0


def _tell(path: Path, done: Imported, *, dry_run: bool) -> None:
    missing = done.lines - done.matched
    for one in done.unmatched[:SHOWN_UNMATCHED]:
        click.echo(f"{path}:{one.line}: {one.why}", err=True)
    if missing > SHOWN_UNMATCHED:
        click.echo(
            f"{path}: {missing - SHOWN_UNMATCHED} more lines match nothing; --json names them", err=True
        )
    would = "would be " if dry_run else ""
    click.echo(
        f"{done.lines} lines: {done.rows} rows of feedback {would}imported, {done.already} already there; "
        f"{missing} lines match nothing"
    )


@contextmanager
def _keyring(config: Config) -> Iterator[Keyring | None]:
    """What rows are encrypted with, as the recorder's are."""
    keyring = keyring_to_write_with(config)
    try:
        yield keyring
    finally:
        if keyring is not None:
            keyring.close()
