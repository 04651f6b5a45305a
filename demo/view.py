"""What the demo shows: headings and bars on standard error, the closing table on standard output."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.report import Report, VariantFigures

PLAIN_WIDTH = 120  # of the table where standard output is no terminal
LINE_EVERY_S = 20.0  # where nobody watches a bar, a line tells that it goes on


class View:
    """The screen. On a terminal it draws bars, elsewhere it writes a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._started = time.monotonic()

    def head(self, number: int, title: str, text: str) -> None:
        """The heading of a step."""
        self._console.print(f"\n[bold]{number}. {title}[/bold]  [dim]{self._clock()}[/dim]\n   {text}")

    def say(self, text: str) -> None:
        """One line under the heading."""
        self._console.print(f"   {text}", markup=False)

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar that the yielded function moves to what is done."""
        if sys.stderr.isatty():
            columns = (
                TextColumn("   {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bars:
                task = bars.add_task(what, total=total)
                yield lambda done: bars.update(task, completed=done)
            return
        said = time.monotonic()

        def tell(done: int) -> None:
            nonlocal said
            if time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                self.say(f"{what}: {done} of {total}  {self._clock()}")

        yield tell

    @contextlib.contextmanager
    def note(self) -> Iterator[Callable[[str], None]]:
        """One changing line; where nobody watches, a line when it changed and some time has passed."""
        if sys.stderr.isatty():
            with self._console.status("") as status:
                yield lambda text: status.update(f"   {text}")
            return
        said, last = 0.0, ""

        def tell(text: str) -> None:
            nonlocal said, last
            if text != last and time.monotonic() - said >= LINE_EVERY_S:
                said, last = time.monotonic(), text
                self.say(f"{text}  {self._clock()}")

        yield tell

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60}:{seconds % 60:02d}"


def print_report(report: Report) -> None:
    """The closing table and what to look at next, on standard output."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    table = Table(title=f"Route {report.route}: every figure out of ClickHouse", title_justify="left")
    for column in (
        "variant",
        "answers",
        "quality (95 %)",
        "seen / unseen",
        "p50",
        "p95",
        "USD / 1,000",
        "decision",
    ):
        left = column in {"variant", "decision"}
        table.add_column(column, justify="left" if left else "right", no_wrap=column == "variant")
    for figures in report.variants:
        table.add_row(*_cells(figures))
    console.print(table)
    for figures in report.variants:
        if figures.why:
            console.print(f"{figures.variant} {figures.decision}: {figures.why}", markup=False)
    _print_held_out(console, report)
    _print_rest(console, report)


def print_json(report: Report) -> None:
    """The same as one object."""
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def _cells(figures: VariantFigures) -> list[str]:
    quality = "—"
    if figures.quality is not None and figures.quality_low is not None and figures.quality_high is not None:
        quality = f"{figures.quality:.1%} ({figures.quality_low:.1%} to {figures.quality_high:.1%})"
    return [
        figures.variant,
        f"{figures.answers:,}",
        quality,
        f"{_share(figures.quality_seen)} / {_share(figures.quality_unseen)}",
        _seconds(figures.latency_p50_s),
        _seconds(figures.latency_p95_s),
        "—" if figures.cost_per_thousand_usd is None else f"{figures.cost_per_thousand_usd:.3f}",
        figures.decision,
    ]


def _print_held_out(console: Console, report: Report) -> None:
    console.print(
        "\n[bold]On held-out messages[/bold], the promoted snapshot against the base model with examples:"
    )
    for gain in report.gains:
        console.print(
            f"  {gain.slice:<18} {gain.base:.1%} → {gain.candidate:.1%}, "
            f"gain {gain.gain:+.1%} (95 % interval {gain.low:+.1%} to {gain.high:+.1%}, n = {gain.n})",
            markup=False,
        )


def _print_rest(console: Console, report: Report) -> None:
    lineage = report.lineage
    console.print("\n[bold]Lineage[/bold]")
    for key in ("snapshot", "base_model", "dataset", "examples", "judge"):
        console.print(f"  {key:<11} {lineage.get(key, '—')}", markup=False)
    if report.cost_ratio is not None:
        console.print(f"\nAn answer of the promoted snapshot costs {report.cost_ratio:,.0f} times less.")
    if report.gateway_added_p95_ms_in_training is not None:
        added = report.gateway_added_p95_ms_in_training
        console.print(f"While it trained, the gateway added {added:.1f} ms to a request at p95.")
    console.print(
        f"The app sent {report.requests:,} requests and saw {report.app_errors} errors; "
        "the gateway was not restarted."
    )


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.0%}"


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f} s"
