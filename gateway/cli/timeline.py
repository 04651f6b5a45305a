"""The attempts of a trace over time, drawn to scale. Pure: JSON in, lines out."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.text import Text

from gateway.cli.terminal import plain_line

MIN_CELLS, MAX_CELLS = 8, 40  # of the bars; what an attempt was needs the rest of the line
ONE_LINE_CELLS = 90  # on a narrower terminal what an attempt was stands below its bar

Row = dict[str, Any]


def timeline(attempts: str, latency_ms: float, ttft_ms: float | None, width: int) -> list[Text]:
    """A line for each of *attempts* (JSON), under a scale of the whole trace, and its first token.

    *width* is that of the terminal. What is no list of attempts is shown as it is.
    """
    try:
        found: list[Row] = json.loads(attempts)
        ends_ms = _finite(max([latency_ms, *(float(attempt["ended_ms"]) for attempt in found)]))
        cells = max(MIN_CELLS, min(MAX_CELLS, width // 3))
        lines = [line for attempt in found for line in _attempt(attempt, ends_ms, cells, width)]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):  # rows of another version
        return [Text(plain_line(attempts))]
    if not found:
        return []
    if ttft_ms is not None:
        at = cell_of(ttft_ms, ends_ms, cells)
        lines.append(
            Text.assemble((f"{' ' * at}▲{' ' * (cells - at)}", "cyan"), f"first token {duration(ttft_ms)}")
        )
    return [_scale(ends_ms, cells), *lines]


def cell_of(at_ms: float, ends_ms: float, cells: int) -> int:
    """The cell, of *cells* for *ends_ms*, in which *at_ms* lies; the nearest where it lies outside."""
    return max(0, min(cells - 1, int(at_ms / ends_ms * cells)))


def duration(milliseconds: float | None) -> str:
    """A time as people read it."""
    if milliseconds is None:
        return "unknown"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def _scale(ends_ms: float, cells: int) -> Text:
    return Text(f"├{'─' * (cells - 2)}┤ {duration(ends_ms)} in all", "dim")


def _attempt(attempt: Row, ends_ms: float, cells: int, width: int) -> list[Text]:
    started_ms, ended_ms = float(attempt["started_ms"]), float(attempt["ended_ms"])
    first = cell_of(started_ms, ends_ms, cells)
    last = max(first + 1, min(cells, math.ceil(ended_ms / ends_ms * cells)))
    result = attempt.get("error") or attempt.get("status") or "unknown"
    bar = (
        f"{' ' * first}{'━' * (last - first)}{' ' * (cells - last)} ",
        "red" if attempt.get("error") else "green",
    )
    took = f"{duration(ended_ms - started_ms)} from {duration(started_ms)}"
    what = plain_line(f"{attempt['upstream']} / {attempt['model']} at {attempt['server']}: {result}")
    if width >= ONE_LINE_CELLS:
        return [Text.assemble(bar, f"{took}  {what}")]
    return [Text.assemble(bar, took), Text(what)]


def _finite(ends_ms: float) -> float:
    if not math.isfinite(ends_ms) or ends_ms <= 0:
        return 1.0
    return ends_ms
