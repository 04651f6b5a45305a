"""What a run is asked for and what it finds, as frozen types. The JSON of a result is exactly these."""

from __future__ import annotations

from typing import Literal

import msgspec

Load = Literal["buffered", "streamed", "open loop", "first token"]


class BenchmarkError(Exception):
    """A part of the run could not be done; the message is one line and says why."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how hard. Times in seconds where no other unit is named."""

    quick: bool = False
    rounds: int = 3
    nice: int = 0  # of load, upstream and contender
    warm_s: float = 2.0
    measure_s: float = 4.0
    connections: int = 32  # closed loop, buffered
    streams: int = 64  # closed loop, streamed
    stream_gap_ms: int = 2  # between the chunks of one answer
    sessions: int = 64  # requests take turns in naming one; 1 makes all heads equal
    load_share: float = 0.3  # of saturation, open loop
    open_s: float = 6.0
    many_streams: int = 500
    many_gap_ms: int = 50
    many_s: float = 10.0
    most_streams: int = 2000
    most_gap_ms: int = 200
    most_s: float = 10.0
    requests_first: int = 50_000
    requests_last: int = 500_000


QUICK = Parameters(
    quick=True,
    rounds=1,
    warm_s=1.0,
    measure_s=2.0,
    open_s=3.0,
    many_s=4.0,
    most_s=4.0,
    requests_first=5_000,
    requests_last=50_000,
)


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How many were answered within the measured time, and how long that took each.

    What is timed is the whole answer where it is buffered, and the first token where it is streamed.
    """

    answers: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    warm_answers: int = 0  # before the measured time; in no other figure

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under one load in one round. CPU is user + system time in microseconds per answer."""

    contender: str
    load: Load
    round: int
    times: Times
    cpu_us: float | None = None  # of the contender itself; None for `direct`
    others_share: float | None = (
        None  # of the contender's core: what everyone else took while it was measured
    )
    beside_us: dict[str, float] = {}  # of the processes beside the worker, until they had nothing left to do
    backlog_s: float | None = None  # how long they needed for that
    dropped: int | None = None  # traces that capture could not keep
    stored: int | None = None  # rows of the store when they were done


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident bytes of one gateway worker."""

    streams: int
    streams_errors: int
    streams_bytes: int  # the most until they had ended
    idle_bytes: int  # before them
    requests: list[tuple[int, int]]  # requests answered so far, resident bytes then
    request_errors: int


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A contender, or a part of the run, that there are no figures for."""

    what: str
    why: str


class Cores(msgspec.Struct, frozen=True, kw_only=True):
    """Which core runs what. `beside`: recorder, shipper, store.

    With two cores these share the load's, and so does the second worker: on the first one's core each would
    find its caches full of the other's, and that is what would be measured.
    """

    workers: list[int]
    load: int
    beside: list[int]

    @property
    def shared(self) -> bool:
        return self.load in self.beside


def share_cores(available: list[int]) -> Cores:
    """Give out *available* cores. Raises BenchmarkError where gateway and load cannot be kept apart."""
    if len(available) < 2:
        raise BenchmarkError("two cores are needed: gateway and load on one core measure each other")
    first, load, *others = sorted(available)
    if len(others) < 2:
        return Cores(workers=[first, *(others or [load])], load=load, beside=[load])
    return Cores(workers=[first, others[0]], load=load, beside=others[1:])
