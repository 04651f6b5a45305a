"""`tracetune judge try`: a judge over the latest traces at once; nothing is stored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gateway.cli.root import config_option, json_option
from gateway.config import Config, JudgeConfig, load_config
from gateway.traces.bodies.reads import local_reader, record_read
from gateway.traces.store import Store, open_store
from judges.coverage import latest_traces
from judges.definition import definition_of
from judges.executor import executor_of
from judges.load import functions_in
from judges.passes import Tally, version_of
from judges.sandbox import IMPORT_WITHIN_S
from judges.slow_import import told_when_slow
from judges.units import load_units

DEFAULT_TRIAL = 20
MAX_TRIAL = 10_000
SLOWEST_SHOWN = 3


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict of `judge try`."""

    judge: str
    trace_id: str
    score: float | None
    reason: str
    ms: float
    kept: bool  # whether anybody said what was kept


@click.command(name="try")
@click.argument("target", metavar="FILE[:FUNCTION]")
@click.option("-n", "count", type=click.IntRange(1, MAX_TRIAL), default=DEFAULT_TRIAL, show_default=True)
@click.option(
    "--route",
    "routes",
    multiple=True,
    help="Only traces of this route; may be repeated  [default: the judge's own]",
)
@click.option(
    "--timeout-s", type=click.FloatRange(min=0.01), help="For one trace  [default: the judge's own, else 5]"
)
@config_option
@json_option
def try_judge(
    target: str,
    count: int,
    routes: tuple[str, ...],
    timeout_s: float | None,
    config_path: Path,
    *,
    as_json: bool,
) -> None:
    """Run a judge over the latest COUNT traces and show what it says. Nothing is stored.

    One that the configuration has keeps to its routes and bounds there.
    """
    file, functions = _target(target)
    config = load_config(config_path)
    entries = [
        entry for function in functions for entry in _entries(config, f"{file}:{function}", routes, timeout_s)
    ]
    with open_store(config) as store:
        tried = [verdict for entry in entries for verdict in _try(config, store, entry, count)]
    if as_json:
        click.echo(msgspec.json.encode(tried))
        return
    if not tried:
        click.echo(f"{target} imports; there are no answered traces in the store yet to try it on")
    for entry in entries:
        _show(entry.name, [verdict for verdict in tried if verdict.judge == entry.name])


def _entries(
    config: Config, path: str, routes: tuple[str, ...], timeout_s: float | None
) -> list[JudgeConfig]:
    """The configured judges at *path*, else one with the defaults; what was said on the command line wins."""
    configured = [entry for entry in config.judges if entry.path == path]
    changes: dict[str, Any] = {"routes": list(routes)} if routes else {}
    if timeout_s is not None:
        changes["timeout_s"] = timeout_s
    entries = configured or [JudgeConfig(name=path.rpartition(":")[2], path=path)]
    return [msgspec.structs.replace(entry, **changes) for entry in entries]


def _target(target: str) -> tuple[Path, list[str]]:
    """The file and the judges in it that *target* means."""
    name, _, function = target.rpartition(":")
    if name.endswith(".py") and function.isidentifier():
        return Path(name).resolve(), [function]
    file = Path(target).resolve()
    return file, functions_in(file)


def _try(config: Config, store: Store, entry: JudgeConfig, count: int) -> list[Tried]:
    definition = definition_of(entry)
    with executor_of(config, entry, definition, show_output=True) as executor:
        with told_when_slow(definition, IMPORT_WITHIN_S):
            executor.start()
        version = version_of(entry, definition)
        ids = latest_traces(store, version, limit=count)
        units = load_units(
            store,
            version,
            ids,
            sessions="session" in executor.parameters,
            later="later" in executor.parameters,
        )
        tasks = [unit.task for unit in units]
        if tasks:  # reasons, and what the judge prints, may quote them
            shown = dict.fromkeys(trace_id for task in tasks for trace_id in task.trace_ids)
            record_read(store, local_reader(), "try", list(shown))
        return [
            Tried(
                judge=entry.name,
                trace_id=task.trace.trace_id,
                score=answer.score,
                reason=answer.reason,
                ms=round(answer.seconds * 1000, 3),
                kept=any(entry.kind == "kept" for entry in task.feedback),
            )
            for task, answer in zip(tasks, executor.judge(tasks), strict=True)
        ]


def _show(name: str, tried: list[Tried]) -> None:
    if not tried:
        return
    console = Console()
    trace_id = Column("trace", no_wrap=True, min_width=36)  # whole, to be pasted into `traces show`
    table = Table(trace_id, "verdict", "kept", "ms", "reason", title=name)
    for verdict in tried:
        shown = "abstained" if verdict.score is None else f"{verdict.score:g}"
        kept = "yes" if verdict.kept else ""
        table.add_row(verdict.trace_id, shown, kept, f"{verdict.ms:.1f}", escape(verdict.reason))
    console.print(table)
    scores = [verdict.score for verdict in tried if verdict.score is not None]
    tally = Tally(len(scores), len(tried) - len(scores))
    mean = f", mean {sum(scores) / len(scores):.3f}" if scores else ""
    console.print(f"{tally.judged} judged{mean}, {tally.abstained} abstained", highlight=False)
    reasons = Counter(verdict.reason for verdict in tried if verdict.score is None)
    for reason, times in reasons.most_common():
        console.print(f"  {times}: {reason}", highlight=False, markup=False)
    slowest = sorted(tried, key=lambda verdict: -verdict.ms)[:SLOWEST_SHOWN]
    told = ", ".join(f"{verdict.trace_id} {verdict.ms:.1f} ms" for verdict in slowest)
    console.print(f"slowest: {told}", highlight=False)
