"""The figures that must be reached, from the turns of a run. Pure.

A ratio is taken within each round, between two contenders that ran minutes apart at most; what counts is the
median of the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.quantiles import median
from benchmarks.types import Load, Memory, Turn

NO_SLOPE = 0.02  # growth of memory between the first and the last look at it that is no slope
MEMORY_MB = 400.0


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what, its value in each round, their median, and the bound that it must keep."""

    name: str
    unit: str
    at_least: bool  # is the bound the least that is allowed, or the most?
    bound: float
    aim: float | None = None
    rounds: list[float] = []
    why_missing: str | None = None

    @property
    def value(self) -> float | None:
        return median(self.rounds) if self.rounds else None

    @property
    def reached(self) -> bool | None:
        """None where there is no value."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def of_round(turns: Sequence[Turn], contender: str, load: Load) -> dict[int, Turn]:
    """Round to turn of one contender under one load."""
    return {turn.round: turn for turn in turns if turn.contender == contender and turn.load == load}


def cpu_ratios(turns: Sequence[Turn], load: Load, above: str, below: str) -> list[float]:
    """CPU of *above* ÷ CPU of *below* in every round that has both."""
    tops, bottoms = of_round(turns, above, load), of_round(turns, below, load)
    return [
        top.cpu_us / bottom.cpu_us
        for number in sorted(tops.keys() & bottoms.keys())
        if (top := tops[number]).cpu_us is not None and (bottom := bottoms[number]).cpu_us
    ]


def added_ms(turns: Sequence[Turn], load: Load, percent: int, contender: str = "ours") -> list[float]:
    """How much later than `direct` *contender* was in every round that has both, at the percentile."""
    vias, directs = of_round(turns, contender, load), of_round(turns, "direct", load)
    return [
        _percentile(vias[number], percent) - _percentile(directs[number], percent)
        for number in sorted(vias.keys() & directs.keys())
    ]


def _percentile(turn: Turn, percent: int) -> float:
    return turn.times.p50_ms if percent == 50 else turn.times.p99_ms


def figures(turns: Sequence[Turn], memory: Memory | None) -> list[Figure]:
    """Every row, in order."""
    return [*_ratios(turns), *_latencies(turns), *_memory(memory)]


def _ratios(turns: Sequence[Turn]) -> list[Figure]:
    rows: list[tuple[str, Load, str, str, bool, float, float | None]] = [
        ("CPU, buffered: ours / vllm-router", "buffered", "ours", "vllm-router", False, 1.2, 1.0),
        ("CPU, streamed: ours / vllm-router", "streamed", "ours", "vllm-router", False, 1.5, 1.2),
        ("CPU, buffered: litellm / ours", "buffered", "litellm", "ours", True, 100, None),
        ("CPU, buffered: portkey / ours", "buffered", "portkey", "ours", True, 30, None),
        ("CPU, buffered: ours / nginx", "buffered", "ours", "nginx", False, 6, 5),
        ("CPU, capture on / off", "buffered", "ours", "ours, capture none", False, 1.25, None),
        ("CPU, two workers / one", "buffered", "ours, two workers", "ours", False, 1.1, None),
    ]
    return [
        Figure(
            name=name,
            unit="",
            at_least=at_least,
            bound=bound,
            aim=aim,
            rounds=(found := cpu_ratios(turns, load, above, below)),
            why_missing=None if found else _absent(turns, load, above, below),
        )
        for name, load, above, below, at_least, bound, aim in rows
    ]


def _latencies(turns: Sequence[Turn]) -> list[Figure]:
    rows: list[tuple[str, Load, int, float]] = [
        ("added latency p50, open loop", "open loop", 50, 0.3),
        ("added latency p99, open loop", "open loop", 99, 2.0),
        ("added time to first token p99", "first token", 99, 5.0),
    ]
    return [
        Figure(
            name=name,
            unit="ms",
            at_least=False,
            bound=bound,
            rounds=(found := added_ms(turns, load, percent)),
            why_missing=None if found else _absent(turns, load, "ours", "direct"),
        )
        for name, load, percent, bound in rows
    ]


def _absent(turns: Sequence[Turn], load: Load, *contenders: str) -> str:
    absent = [name for name in contenders if not of_round(turns, name, load)]
    return f"no figures of {' and '.join(absent)}" if absent else "no round has both"


def _memory(memory: Memory | None) -> list[Figure]:
    streams: list[float] = []
    growth: list[float] = []
    if memory is not None:
        streams = [memory.streams_bytes / 1e6]
        growth = [memory.requests[-1][1] / memory.requests[0][1] - 1]
    why = None if memory is not None else "memory was not measured"
    return [
        Figure(
            name="memory with many streams",
            unit="MB",
            at_least=False,
            bound=MEMORY_MB,
            rounds=streams,
            why_missing=why,
        ),
        Figure(
            name="growth of memory, first to last request",
            unit="share",
            at_least=False,
            bound=NO_SLOPE,
            rounds=growth,
            why_missing=why,
        ),
    ]
