"""`tracetune judge calibrate`: how often a judge is right, against labels from people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import msgspec
import rich_click as click

from gateway.cli.progress import bars
from gateway.cli.root import config_option, json_option, user_name
from gateway.config import Config, JudgeConfig, load_config
from gateway.traces.bodies.reads import local_reader, record_read
from gateway.traces.store import Store, open_store
from gateway.traces.types import Calibration
from judges.budget import Budget
from judges.calibration.bounded import Bounded
from judges.calibration.labelling import Choice, balanced, keys, label_in_terminal
from judges.calibration.labels import (
    Labelled,
    combined,
    disputes,
    feedback_label,
    labelled,
    read_labels,
    store_labels,
    terminal_label,
    unlabelled,
    with_feedback,
)
from judges.calibration.measure import REPEATS, THRESHOLD, calls_needed, measure, passed
from judges.calibration.result import MIN_PER_CLASS, Report, calibration_of, lines
from judges.cli.named import named_judges
from judges.coverage import latest_traces
from judges.definition import definition_of
from judges.errors import JudgeError
from judges.executor import executor_of
from judges.passes import version_of
from judges.pending import JudgeVersion
from judges.trace import judged_trace
from judges.units import load_units
from judges.wire import Task

MAX_TO_LABEL = 1_000
CHOSEN_FROM = 5  # times as many of the latest traces are judged, to choose from


class TooFewLabelsError(JudgeError):
    """A judge cannot be measured yet. The message says how many labels of which kind are missing."""

    exit_code = 3


@click.command()
@click.argument("names", metavar="[NAME]…", nargs=-1)
@click.option("--labels", "labels_file", type=click.Path(path_type=Path), help='JSONL: {"trace_id", "label"}')
@click.option(
    "--label", "to_label", type=click.IntRange(1, MAX_TO_LABEL), help="Label so many answers here first"
)
@click.option("--repeats", type=click.IntRange(0, MAX_TO_LABEL), default=REPEATS, show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), default=THRESHOLD, show_default=True)
@config_option
@json_option
def calibrate(
    names: tuple[str, ...],
    labels_file: Path | None,
    to_label: int | None,
    repeats: int,
    threshold: float,
    config_path: Path,
    *,
    as_json: bool,
) -> int:
    """Measure how often judges are right, against feedback, a file of labels, or labels given here.

    Exits 3 where there are too few labels, and otherwise as `judge run` does where a judge cannot be asked;
    the others are measured all the same. What it costs counts in limits.usd_per_day, and is bounded by it.
    """
    config = load_config(config_path)
    entries = named_judges(config, names, config_path)
    results: list[Calibration] = []
    refused: list[JudgeError] = []
    with open_store(config) as store:
        if labels_file is not None:
            _take_file(store, labels_file)
        for entry in entries:
            try:
                results.append(_calibrate(config, store, entry, to_label, repeats, threshold))
            except JudgeError as error:  # the others are measured nevertheless
                refused.append(error)
                continue
            if not as_json:
                report = msgspec.json.decode(results[-1].report, type=Report)
                click.echo("\n".join(lines(entry.name, results[-1], report)))
    if as_json:
        click.echo(msgspec.json.encode(results))
    for refusal in refused:
        click.echo(f"tracetune: {refusal}", err=True)
    return max((refusal.exit_code for refusal in refused), default=0)


def _take_file(store: Store, path: Path) -> None:
    labels = read_labels(path, datetime.now(UTC))
    unknown = store_labels(store, labels)
    if unknown:
        click.echo(
            f"{path}: {len(unknown)} of {len(labels)} labels are of traces that are not in the store, "
            f"such as {unknown[0]}",
            err=True,
        )


def _calibrate(
    config: Config, store: Store, entry: JudgeConfig, to_label: int | None, repeats: int, threshold: float
) -> Calibration:
    definition = definition_of(entry)
    version = version_of(entry, definition)
    with executor_of(config, entry, definition) as executor:
        executor.start()
        budget = Budget(entry.name, entry.limits)
        budget.sync(store)
        judge = Bounded(executor, budget)
        if to_label is not None:
            _label(store, version, judge, to_label, threshold)
        found, tasks = _labelled_tasks(store, version, judge)
        _enough(entry.name, list(found.labels.values()))
        with bars() as progress:
            bar = progress.add_task(entry.name, total=calls_needed(len(tasks), repeats=repeats))
            measured = measure(
                judge,
                tasks,
                [found.labels[task.trace.trace_id] for task in tasks],
                from_feedback=[task.trace.trace_id in found.by_feedback for task in tasks],
                threshold=threshold,
                repeats=repeats,
                done=lambda count: progress.advance(bar, count),
            )
    # All that was asked of it, what was asked to choose answers to label included.
    measured = msgspec.structs.replace(measured, cost_usd=judge.spent_usd)
    row = calibration_of(
        entry.name, version.version, found, measured, threshold=threshold, now=datetime.now(UTC)
    )
    store.insert("calibrations", [row], token=row.calibration_id)
    return row


def _labelled_tasks(store: Store, version: JudgeVersion, judge: Bounded) -> tuple[Labelled, list[Task]]:
    """The labels that count, and a task for each of their traces, in the same order.

    Of a judge of sessions labels of last turns count, as labels of their sessions.
    """
    people = labelled(store, version)
    ids = list(dict.fromkeys([*people, *with_feedback(store, version)]))
    said: dict[str, bool] = {}
    disputed = 0
    tasks: dict[str, Task] = {}
    for task in _tasks(store, version, judge, ids):
        answer = judged_trace(task.trace, task.feedback).answer
        tasks[task.trace.trace_id] = task
        label = feedback_label(task.feedback, answer)
        if label is not None:
            said[task.trace.trace_id] = label
        elif task.trace.trace_id not in people:
            disputed += disputes(task.feedback, answer)
    found = combined({key: people[key] for key in people if key in tasks}, said, disputed)
    return found, [tasks[key] for key in found.labels]


def _tasks(store: Store, version: JudgeVersion, judge: Bounded, ids: Sequence[str]) -> Iterator[Task]:
    """What the judge is shown of *ids*, but for what was erased or is damaged: there is nothing to judge."""
    for unit in load_units(store, version, ids, judge.parameters):
        if unit.task.why_unreadable is not None:
            continue
        try:
            judged_trace(unit.task.trace, unit.task.feedback)
        except msgspec.DecodeError:
            continue
        yield unit.task


def _enough(name: str, labels: Sequence[bool]) -> None:
    good = sum(labels)
    bad = len(labels) - good
    missing = [
        f"{MIN_PER_CLASS - count} more of {what} answers"
        for what, count in (("good", good), ("bad", bad))
        if count < MIN_PER_CLASS
    ]
    if missing:
        raise TooFewLabelsError(
            f"judge {name}: {good} good and {bad} bad answers have labels; it takes {' and '.join(missing)} "
            f"({MIN_PER_CLASS} each): `tracetune judge calibrate {name} --label 20`, --labels FILE, feedback"
        )


def _label(store: Store, version: JudgeVersion, judge: Bounded, count: int, threshold: float) -> None:
    latest = latest_traces(store, version, limit=count * CHOSEN_FROM)
    fresh = list(unlabelled(latest, labelled(store, version), user_name()))
    tasks = list(_tasks(store, version, judge, fresh))
    choices = [
        Choice(judged_trace(task.trace, task.feedback), passed(answer, threshold))
        for task, answer in zip(tasks, judge.judge(tasks), strict=True)
    ]
    chosen = balanced(choices, count, Random(0))  # noqa: S311 -- an order to ask in, no secret
    if not chosen:
        click.echo("there are no answers left to label here")
        return

    record_read(store, local_reader(), "label", [trace.trace_id for trace in chosen])

    def keep(trace_id: str, good: bool) -> None:
        store.insert("labels", [terminal_label(trace_id, user_name(), good=good)], token=os.urandom(8).hex())

    with keys() as read:
        kept = label_in_terminal(chosen, keep, read)
    click.echo(f"{kept} labels kept")
