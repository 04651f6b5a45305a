"""Tables, JSON and progress bars of the learner's commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from judges.calibration.statistics import Interval
from learner.evaluation import ALL, Evaluation, GateReport
from learner.types import Progress as Step


def print_json(value: Any) -> None:
    """*value* as one JSON document on standard output."""
    click.echo(msgspec.json.encode(value, enc_hook=str).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; cells are text, None an em dash."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("—" if cell is None else str(cell) for cell in row))
    Console().print(table)


@contextmanager
def progress_bar() -> Iterator[Callable[[Step], None]]:
    """What a long step is told to, shown as a bar on a terminal and as nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(step: Step) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(step.stage, total=step.total, note="")
            speed = f"{step.tokens_per_s:.0f} tokens/s " if step.tokens_per_s else ""
            loss = f"loss {step.loss:.3f}" if step.loss is not None else ""
            bars.update(tasks[step.stage], completed=step.done, total=step.total, note=speed + loss)

        yield tell


def percent(interval: Interval) -> str:
    """An interval in points of a hundred: "94.1 (89.8 to 96.7)"."""
    if interval.n == 0:
        return "—"
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def print_evaluation(evaluation: Evaluation) -> None:
    """Scores of each arm and the candidate's differences, by slice, with 95 % intervals in points of 100."""
    slices = list(dict.fromkeys(arm.slice for arm in evaluation.arms))
    rows = []
    for arm in sorted(evaluation.arms, key=lambda arm: (slices.index(arm.slice), arm.arm)):
        pair = evaluation.pair(arm.arm, arm.slice)
        rows.append(
            (
                arm.slice if arm.slice != ALL else "all prompts",
                arm.arm if arm.arm != "base" else f"base, {evaluation.few_shot} examples",
                arm.score.n,
                percent(arm.score),
                percent(pair.difference) if pair else None,
                f"{pair.p_value:.2g}" if pair and pair.difference.n else None,
                f"{arm.tokens_out:.0f}" if arm.tokens_out is not None else None,
            )
        )
    print_table(("slice", "arm", "n", "score", "candidate less arm", "p", "tokens out"), rows)
    if evaluation.gate is not None:
        _print_gate(evaluation.gate)
    for note in evaluation.notes:
        click.echo(note)


def _print_gate(gate: GateReport) -> None:
    """The same answers by the judge that gates."""
    pairs = {pair.against: pair.result for pair in gate.pairs}
    print_table(
        (f"by {gate.judge}, which gates", "n", "score", "candidate less arm"),
        [
            (
                arm.arm,
                arm.score.n,
                percent(arm.score),
                percent(pairs[arm.arm].difference) if arm.arm in pairs else None,
            )
            for arm in gate.arms
        ],
    )
    if gate.gap is not None:
        click.echo(f"gap between the judges against {gate.gap.against}: {percent(gate.gap.gap)} points")
