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
from gateway.config.judges import BUILTIN
from gateway.errors import UsageError
from gateway.traces.bodies.reads import local_reader, record_read
from gateway.traces.store import Store, open_store
from judges.calibration.labels import feedback_label
from judges.calibration.measure import THRESHOLD
from judges.coverage import latest_traces
from judges.definition import definition_of
from judges.executor import executor_of
from judges.load import functions_in
from judges.passes import Tally, version_of
from judges.sandbox import IMPORT_WITHIN_S
from judges.slow_import import told_when_slow
from judges.trace import judged_trace
from judges.units import load_units
from judges.wire import Task

DEFAULT_TRIAL = 20
MAX_TRIAL = 10_000
SLOWEST_SHOWN = 3
WRONG_SHOWN = 10


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict of `judge try`."""

    judge: str
    trace_id: str
    score: float | None
    reason: str
    ms: float
    kept: bool  # whether anybody said what was kept
    said: bool | None = None  # whether people called the answer good; None where they said nothing, or both

    @property
    def wrong(self) -> bool:
        """Whether the judge says the opposite of what people said."""
        return self.score is not None and self.said is not None and (self.score >= THRESHOLD) != self.said


@click.command(name="try")
@click.argument("target", metavar="FILE[:FUNCTION]|NAME|builtin:NAME")
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

    One that the configuration has, by its NAME there or by its file, keeps to its routes and bounds there.
    Where there is feedback: what it would have got wrong. A model that it asks is asked for real.
    """
    config = load_config(config_path)
    entries = [_changed(entry, routes, timeout_s) for entry in _entries(config, target)]
    with open_store(config) as store:
        tried = [verdict for entry in entries for verdict in _try(config, store, entry, count)]
    if as_json:
        click.echo(msgspec.json.encode(tried))
        return
    if not tried:
        click.echo(f"{target} imports; there are no answered traces in the store yet to try it on")
    for entry in entries:
        _show(entry.name, [verdict for verdict in tried if verdict.judge == entry.name])


def _entries(config: Config, target: str) -> list[JudgeConfig]:
    """The configured judges that *target* means, by name or file, else new ones with the defaults."""
    named = [entry for entry in config.judges if entry.name == target]
    if named:
        return named
    entries: list[JudgeConfig] = []
    for path in _paths(config, target):
        same = [entry for entry in config.judges if entry.path == path]
        entries += same or [JudgeConfig(name=path.rpartition(":")[2], path=path)]
    return entries


def _changed(entry: JudgeConfig, routes: tuple[str, ...], timeout_s: float | None) -> JudgeConfig:
    """What was said on the command line wins."""
    changes: dict[str, Any] = {"routes": list(routes)} if routes else {}
    if timeout_s is not None:
        changes["timeout_s"] = timeout_s
    return msgspec.structs.replace(entry, **changes)


def _paths(config: Config, target: str) -> list[str]:
    """The judges of *target*, each as a path of the configuration. Raises UsageError, JudgeFileError."""
    name, _, function = target.rpartition(":")
    if name == BUILTIN:
        return [target]
    if name.endswith(".py") and function.isidentifier():
        return [f"{Path(name).resolve()}:{function}"]
    if not target.endswith(".py") and not Path(target).exists():
        known = ", ".join(entry.name for entry in config.judges) or "none"
        raise UsageError(f"{target!r} is no file, and no judge of the configuration; judges there: {known}")
    file = Path(target).resolve()
    return [f"{file}:{function}" for function in functions_in(file)]


def _try(config: Config, store: Store, entry: JudgeConfig, count: int) -> list[Tried]:
    definition = definition_of(entry)
    with executor_of(config, entry, definition, show_output=True) as executor:
        with told_when_slow(definition, IMPORT_WITHIN_S):
            executor.start()
        version = version_of(entry, definition)
        ids = latest_traces(store, version, limit=count)
        tasks = [unit.task for unit in load_units(store, version, ids, executor.parameters)]
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
                said=_said(task),
            )
            for task, answer in zip(tasks, executor.judge(tasks), strict=True)
        ]


def _said(task: Task) -> bool | None:
    try:
        return feedback_label(task.feedback, judged_trace(task.trace).answer)
    except msgspec.DecodeError:  # erased, or damaged
        return None


def _show_wrong(console: Console, tried: list[Tried]) -> None:
    """What people said against what the judge says, and where the two differ."""
    told = [verdict for verdict in tried if verdict.said is not None and verdict.score is not None]
    if not told:
        return
    wrong = [verdict for verdict in told if verdict.wrong]
    console.print(
        f"people said something of {len(told)} of them; it would have got {len(wrong)} wrong", highlight=False
    )
    for verdict in wrong[:WRONG_SHOWN]:
        opinion = "good" if verdict.said else "bad"
        line = f"  {verdict.trace_id} people: {opinion}, judge: {verdict.score:g}"
        console.print(line, highlight=False, soft_wrap=True)
    if len(wrong) > WRONG_SHOWN:
        console.print(f"  and {len(wrong) - WRONG_SHOWN} more; --json has all of them", highlight=False)


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
    _show_wrong(console, tried)
