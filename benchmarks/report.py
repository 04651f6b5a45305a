"""What a run found, as one table for people and one JSON for the record. Pure, but for the writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.figures import Figure, figures, of_round
from benchmarks.machine import Machine
from benchmarks.quantiles import median
from benchmarks.types import Cores, Load, Memory, Missing, Parameters, Turn

ABSENT = "-"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run, raw rounds included."""

    name: str
    commit: str
    began_at: str
    ended_at: str
    machine: Machine
    cores: Cores
    versions: dict[str, str]
    parameters: Parameters
    load_first: bool  # on its core, before whatever else runs there
    open_rate: float | None  # requests per second of the open loop
    turns: list[Turn]
    memory: Memory | None
    missing: list[Missing]


def table(contenders: Sequence[str], result: Result) -> str:
    """The contenders side by side, then each figure with its bound, then what is missing and why."""
    first = [
        "contender",
        "CPU us/request",
        "beside",
        "req/s",
        "p99 ms",
        "CPU us/stream",
        "beside",
        "streams/s",
    ]
    rows = [_contender(name, result.turns) for name in contenders]
    second = ["figure", "value", "rounds", "must", "aim", "reached"]
    parts = [
        _aligned([first, *rows]),
        _aligned([second, *(_figure(figure) for figure in figures(result.turns, result.memory))]),
    ]
    if result.missing:
        parts.append("\n".join(f"missing: {entry.what}: {entry.why}" for entry in result.missing))
    lost = sum(turn.dropped or 0 for turn in result.turns)
    failed = sum(turn.times.errors for turn in result.turns)
    others = [turn.others_share for turn in result.turns if turn.others_share is not None]
    if others:
        parts.append(
            f"everyone else took {median(others):.0%} of the contender's core in the median turn, "
            f"{max(others):.0%} in the worst; latencies want this near 0 %"
        )
    parts.append(f"{lost} traces dropped, {failed} requests failed in the measured time of all turns")
    return "\n\n".join(parts)


def _contender(name: str, turns: Sequence[Turn]) -> list[str]:
    buffered = list(of_round(turns, name, "buffered").values())
    return [
        name,
        *_cpu_and_beside(name, "buffered", turns),
        _middle([turn.times.per_second for turn in buffered], 0),
        _middle([turn.times.p99_ms for turn in buffered], 2),
        *_cpu_and_beside(name, "streamed", turns),
        _middle([turn.times.per_second for turn in of_round(turns, name, "streamed").values()], 0),
    ]


def _cpu_and_beside(name: str, load: Load, turns: Sequence[Turn]) -> list[str]:
    found = list(of_round(turns, name, load).values())
    beside = [sum(turn.beside_us.values()) for turn in found if turn.beside_us]
    return [_middle([turn.cpu_us for turn in found if turn.cpu_us is not None], 1), _middle(beside, 1)]


def _middle(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f}" if values else ABSENT


def _figure(figure: Figure) -> list[str]:
    bound = f"{'>=' if figure.at_least else '<='} {figure.bound:g} {figure.unit}".strip()
    aim = f"{figure.aim:g}" if figure.aim is not None else ""
    if figure.value is None:
        return [figure.name, ABSENT, "", bound, aim, f"missing: {figure.why_missing}"]
    rounds = " ".join(f"{value:.3g}" for value in figure.rounds)
    return [figure.name, f"{figure.value:.3g}", rounds, bound, aim, "yes" if figure.reached else "NO"]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def encoded(result: Result) -> bytes:
    """The JSON: the raw result, and the figures worked out from it."""
    worked_out: list[dict[str, Any]] = [
        {**msgspec.to_builtins(figure), "value": figure.value, "reached": figure.reached}
        for figure in figures(result.turns, result.memory)
    ]
    content = {**msgspec.to_builtins(result), "figures": worked_out}
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def write(result: Result, folder: Path) -> Path:
    """Write the JSON to *folder*, whole or not at all; the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(encoded(result))
    return temporary.replace(path)
