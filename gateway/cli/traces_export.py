"""`tracetune traces export`: traces as training files, or as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, get_args

import rich_click as click

from gateway.cli.progress import counted
from gateway.cli.root import config_option
from gateway.cli.times import Moment, Span
from gateway.config import load_config
from gateway.errors import OperationError, UsageError
from gateway.traces.bodies.reads import local_reader, record_read
from gateway.traces.export import FORMATS, Exported, Format, export_traces
from gateway.traces.exporting.pages import count_traces
from gateway.traces.exporting.selection import Selection
from gateway.traces.spool.replace import replacing
from gateway.traces.store import open_store
from gateway.traces.types import Outcome

ANY = "any"
STANDARD_OUTPUT = "-"


@click.command("export")
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), default="openai", show_default=True,
    help="OpenAI's chat format for fine-tuning; TRL's conversational prompt-completion, or its "
    "unpaired and paired preference by a judge's scores; or the rows themselves as Parquet.",
)  # fmt: skip
@click.option("-o", "--output", default=STANDARD_OUTPUT, metavar="FILE", help="A file; `-`: standard output.")
@click.option("--route", help="Only this route.")
@click.option("--variant", help="Only answers by this variant; `imported`: only imported traces.")
@click.option("--since", type=Span(), help="Only the last 90m, 36h, 7d, 2w.")
@click.option("--from", "start", type=Moment(), help="Only from this time on (UTC unless it says otherwise).")
@click.option("--to", "end", type=Moment(), help="Only before this time.")
@click.option(
    "--outcome", "outcomes", multiple=True, type=click.Choice([*get_args(Outcome), ANY]), default=["ok"]
)
@click.option("--incomplete", is_flag=True, help="Also answers that a length limit or a filter cut short.")
@click.option("--judge", help="Only what this judge has scored.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="In a preference: the least that is good.")
@click.option("--max-score", type=click.FloatRange(0, 1))
@click.option("--session", help="Only this session, as `traces show` prints it.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE")
@click.option("--limit", type=click.IntRange(1), help="At most so many, the newest.")
@config_option
def export(
    kind: Format,
    output: str,
    route: str | None,
    variant: str | None,
    since: timedelta | None,
    start: datetime | None,
    end: datetime | None,
    outcomes: tuple[str, ...],
    incomplete: bool,
    judge: str | None,
    min_score: float | None,
    max_score: float | None,
    session: str | None,
    tags: tuple[str, ...],
    limit: int | None,
    config_path: Path,
) -> None:
    """Write traces as examples for fine-tuning, or as they are, the newest first.

    A file is replaced as a whole or not at all. Errors, truncated answers and those that were cut short are
    left out unless asked for; what was left out is told on standard error.
    """
    if since is not None and start is not None:
        raise UsageError("--since and --from both say where to begin; leave one out")
    selection = Selection(
        route=route,
        variant=variant,
        session=session,
        tags=dict(tag_of(text) for text in tags),
        since=datetime.now(UTC) - since if since is not None else start,
        until=end,
        outcomes=() if ANY in outcomes else outcomes,
        complete=not incomplete,
        judge=judge,
        min_score=min_score,
        max_score=max_score,
        limit=limit,
    )
    reader = local_reader()
    with open_store(load_config(config_path)) as store:

        def audit(trace_ids: Sequence[str]) -> None:
            record_read(store, reader, "export", trace_ids)

        total = count_traces(store, selection)
        with counted("exporting", total) as watch, _output(output, kind) as out:
            done = export_traces(store, selection, kind, out, audit=audit, watch=watch)
            if not done.written:
                raise OperationError(f"nothing to export: {_told(done)}")
    click.echo(f"exported {_told(done)}", err=True)


def tag_of(text: str) -> tuple[str, str]:
    """The name and the value of a tag as it is typed. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--tag {text!r} is not NAME=VALUE")
    return name, value


@contextmanager
def _output(output: str, kind: Format) -> Iterator[BinaryIO]:
    if output == STANDARD_OUTPUT:
        if kind == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is nothing for a terminal; name a file with -o")
        yield sys.stdout.buffer
        return
    path = Path(output)
    try:
        with replacing(path) as out:
            yield out
    except OSError as error:
        raise OperationError(f"{path} cannot be written: {error.strerror or error}") from error


def _told(done: Exported) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in done.left_out.items())
    return f"{done.written} of {done.looked_at} traces" + (f"; left out: {reasons}" if reasons else "")
