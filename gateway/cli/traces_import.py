"""`tracetune traces import`: logs of other tools as traces."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import rich_click as click

from gateway.cli.progress import counted
from gateway.cli.root import config_option, json_option
from gateway.cli.terminal import plain_line
from gateway.cli.traces_export import tag_of
from gateway.config import load_config
from gateway.errors import OperationError
from gateway.traces.importing.recognise import SOURCES, Source
from gateway.traces.imports import Imported, Into, import_file
from gateway.traces.layout import layout_of
from gateway.traces.migrate import migrate
from gateway.traces.store import open_store

SHOWN_FAILURES = 20


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
@click.option("--route", required=True, help="The route that learns from it.")
@click.option(
    "--format",
    "source",
    type=click.Choice(SOURCES),
    default="auto",
    show_default=True,
    help="What wrote the file; auto: told by the fields of each line.",
)
@click.option("--client", default="", help="The client key's name that the traces shall be of.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="A tag for every trace.")
@click.option(
    "--assume-complete",
    is_flag=True,
    help="Take an answer for whole where the log does not say why it ended.",
)
@click.option("--dry-run", is_flag=True, help="Read every line and store none.")
@config_option
@json_option
def import_command(
    path: Path,
    route: str,
    source: Source,
    client: str,
    tags: tuple[str, ...],
    assume_complete: bool,
    dry_run: bool,
    config_path: Path,
    as_json: bool,
) -> int:
    """Take over FILE, lines of JSON as OpenAI, LiteLLM, Langfuse, Helicone or OpenPipe write them.

    The traces are redacted as live ones are, marked `imported`, judged and learnt from; no rollout counts
    them. Importing a file again adds what is missing. Exits 1 when a line could not be taken; the others are
    in.
    """
    config = load_config(config_path)
    into = Into(
        route=route,
        client=client,
        tags=dict(tag_of(text) for text in tags),
        source=source,
        assume_complete=assume_complete,
    )
    now = datetime.now(UTC)
    # What a packed file holds is not known before its end.
    size = None if path.suffix == ".gz" else path.stat().st_size
    with counted("importing", size) as watch:
        if dry_run:
            done = import_file(config, path, into, None, now=now, watch=watch)
        else:
            with open_store(config) as store:
                migrate(store, layout=layout_of(config.store))
                done = import_file(config, path, into, store, now=now, watch=watch)
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        _print(done, route, dry_run=dry_run)
    for failure in done.failures[:SHOWN_FAILURES]:
        click.echo(f"tracetune: {path}:{failure.line}: {plain_line(failure.reason)}", err=True)
    if done.failed > SHOWN_FAILURES:
        click.echo(f"tracetune: {path}: {done.failed - SHOWN_FAILURES} more lines failed", err=True)
    return OperationError.exit_code if done.failed else 0


def _print(done: Imported, route: str, *, dry_run: bool) -> None:
    counts = [(done.present, "there already"), (done.erased, "of somebody erased"), (done.failed, "failed")]
    counts += [(count, what) for what, count in done.other.items()]
    rest = "".join(f", {count} {what}" for count, what in counts if count)
    verb = "would import" if dry_run else "imported"
    click.echo(f"{verb} {done.imported} of {done.lines} lines into {route}{rest}")
    if done.unended:
        click.echo(f"{done.unended} do not say why they ended, and train nobody without --assume-complete")
    if done.expired:
        click.echo(f"{done.expired} are older than store.retention_days and will not stay")
