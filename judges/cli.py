"""`tracetune judge`: list, try, run. Thin over the functions that do it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from gateway.cli.root import config_option, json_option
from gateway.config import Config, JudgeConfig, load_config
from gateway.errors import ConfigError, UsageError
from gateway.traces.store import Store, open_store
from judges.budget import Budget
from judges.coverage import Coverage, coverage, latest_traces
from judges.definition import definition_of
from judges.errors import JudgeFileError
from judges.executor import executor_of
from judges.load import functions_in
from judges.once import count_left, judge_once
from judges.passes import Tally, version_of
from judges.sandbox import IMPORT_WITHIN_S
from judges.slow_import import told_when_slow
from judges.units import load_units
from judges.usable import why_unusable

DEFAULT_TRIAL = 20
MAX_TRIAL = 10_000
SLOWEST_SHOWN = 3


@click.group()
def judge() -> None:
    """Say how good answers are: list your judges, try one, run them over the stored traces."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `judge list`. `error`: why it cannot be used; a file that cannot be read has no version."""

    name: str
    file: str
    version: str | None = None
    coverage: Coverage | None = None
    error: str | None = None


@judge.command(name="list")
@config_option
@json_option
def list_judges(config_path: Path, *, as_json: bool) -> None:
    """Each judge with its version, how much of the store it has judged, and why it cannot be used."""
    config = load_config(config_path)
    unusable = why_unusable(config)
    with open_store(config) as store:
        listed = [_listed(store, entry, unusable.get(entry.name)) for entry in config.judges]
    if as_json:
        click.echo(msgspec.json.encode(listed))
        return
    table = Table("judge", "version", "judged", "abstained", "of", "mean", "file")
    for entry in listed:
        found = entry.coverage
        table.add_row(
            entry.name,
            entry.version or "—",
            *([str(found.judged), str(found.abstained), str(found.traces)] if found else ["—"] * 3),
            "—" if found is None or found.mean is None else f"{found.mean:.3f}",
            escape(entry.file),
        )
    Console().print(table if listed else f"no judges in {config_path}; add one under `judges:`")
    for entry in listed:
        if entry.error is not None:
            click.echo(f"{entry.name} judges nothing: {entry.error}")


def _listed(store: Store, entry: JudgeConfig, error: str | None) -> Listed:
    try:
        version = version_of(entry, definition_of(entry))
    except JudgeFileError:
        return Listed(name=entry.name, file=entry.path or str(entry.rubric), error=error)
    return Listed(
        name=entry.name,
        file=entry.path or str(entry.rubric),
        version=version.version,
        coverage=coverage(store, version),
        error=error,
    )


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What `judge run` came to for one judge; `error` where its file could not be used.

    `paused`: which limit ended it, and when it goes on; `left` traces are not judged then.
    """

    judge: str
    version: str | None
    judged: int
    abstained: int
    left: int = 0
    paused: str | None = None
    error: str | None = None


@judge.command()
@click.argument("names", metavar="[NAME]…", nargs=-1)
@config_option
@json_option
def run(names: tuple[str, ...], config_path: Path, *, as_json: bool) -> int:
    """Judge what is not judged yet, once, with all judges or those named. Safe to interrupt and repeat.

    Exits 2 where a judge cannot be used, after the others have judged.
    """
    config = load_config(config_path)
    if not config.judges:
        raise ConfigError(f"{config_path}: no judges are configured; add one under `judges:`")
    unknown = set(names) - {entry.name for entry in config.judges}
    if unknown:
        known = ", ".join(entry.name for entry in config.judges)
        raise UsageError(f"no judge is named {min(unknown)!r}; judges: {known}")
    results: list[Ran] = []
    with open_store(config) as store, _progress() as progress:
        for entry in config.judges:
            if names and entry.name not in names:
                continue
            try:
                results.append(_run(config, store, entry, progress))
            except JudgeFileError as error:  # the others are judged nevertheless
                results.append(Ran(judge=entry.name, version=None, judged=0, abstained=0, error=str(error)))
    if as_json:
        click.echo(msgspec.json.encode(results))
    else:
        for result in results:
            _tell(result)
    failed = [result for result in results if result.error is not None]
    for result in failed:
        click.echo(f"tracetune: judge {result.judge}: {result.error}", err=True)
    return JudgeFileError.exit_code if failed else 0


def _tell(ran: Ran) -> None:
    if ran.error is None:
        click.echo(f"{ran.judge}: {ran.judged} judged, {ran.abstained} abstained")
    if ran.paused is not None:
        click.echo(f"{ran.paused}; {ran.left} traces are left")


def _run(config: Config, store: Store, entry: JudgeConfig, progress: Progress) -> Ran:
    definition = definition_of(entry)
    version = version_of(entry, definition)
    with executor_of(config, entry, definition) as executor:
        with told_when_slow(definition, IMPORT_WITHIN_S):
            executor.start()
        task = progress.add_task(entry.name, total=count_left(store, version))
        budget = Budget(entry.name, entry.limits)
        tally = judge_once(
            store,
            executor,
            version,
            stored=lambda stored: progress.advance(task, stored.total),
            budget=budget,
        )
    paused = budget.told() if budget.exhausted() else None
    return Ran(
        judge=entry.name,
        version=definition.version,
        judged=tally.judged,
        abstained=tally.abstained,
        left=0 if paused is None else count_left(store, version),
        paused=paused,
    )


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict of `judge try`."""

    judge: str
    trace_id: str
    score: float | None
    reason: str
    ms: float
    kept: bool  # whether anybody said what was kept


@judge.command(name="try")
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
        units = load_units(store, version, ids, sessions="session" in executor.parameters)
        tasks = [unit.task for unit in units]
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
