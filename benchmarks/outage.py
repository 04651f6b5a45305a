"""The store away for a while under steady load, and how fast what has gathered drains once it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.ledger import Ledger
from benchmarks.pipeline import Pipeline
from benchmarks.types import BenchmarkError
from gateway.errors import TracetuneError

DRAINED_WITHIN_S = 1800.0
SETTLED_WITHIN_S = 900.0
POLL_S = 0.1
LEAST_READ = 200
READ_WITHIN_S = 300.0


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """An outage. `drain_ratio`: rows stored a second while others arrive, over rows that arrive a second."""

    seconds: float
    read: int  # to their end, during the outage and the draining
    missing: int
    twice: int
    arrived_per_s: float
    backlog_rows: int  # when the store was back
    drained_per_s: float  # from the first row that is stored until none of the backlog is left
    drain_ratio: float
    first_row_after_s: float  # from the store's start
    drained_after_s: float


def outage(
    running: Pipeline,
    ledger: Ledger,
    ids: Path,
    *,
    seconds: float,
    rate: float,
    seed: int,
    say: Callable[[str], None],
) -> Outage:
    """Take the store away for *seconds* while *rate* requests a second come. Raises BenchmarkError."""
    ledger.take()
    ledger.settle(running, SETTLED_WITHIN_S)
    before = _rows(running)
    running.kill("store")
    running.read(ids, rate=rate, seed=seed + 1)
    began = time.monotonic()
    time.sleep(seconds)
    read = ledger.take()
    while read < LEAST_READ:  # on a busy machine a few seconds are none at all
        if time.monotonic() - began > seconds + READ_WITHIN_S:
            raise BenchmarkError(f"only {read} answers were read within {READ_WITHIN_S:.0f} s")
        time.sleep(POLL_S)
        read += ledger.take()
    arrived_per_s = read / (time.monotonic() - began)
    backlog = read
    say(f"outage: {read} read in {seconds:.0f} s; the store comes back")
    running.start("store")
    started = time.monotonic()
    first_at, stored = _until(running, lambda rows: rows > before, started)
    first_rows = stored - before
    drained_at, stored = _until(running, lambda rows: rows - before >= backlog, started)
    drained_per_s = (stored - before - first_rows) / max(POLL_S, drained_at - first_at)
    read += ledger.take()
    missing = ledger.settle(running, SETTLED_WITHIN_S)
    running.kill("readers")
    found = Outage(
        seconds=seconds,
        read=read,
        missing=missing,
        twice=ledger.twice(running),
        arrived_per_s=round(arrived_per_s, 1),
        backlog_rows=backlog,
        drained_per_s=round(drained_per_s, 1),
        drain_ratio=round(drained_per_s / arrived_per_s, 2),
        first_row_after_s=round(first_at - started, 2),
        drained_after_s=round(drained_at - started, 2),
    )
    say(
        f"outage: {found.missing} missing, {found.twice} twice, "
        f"drained at {found.drain_ratio:.1f} x the arrivals"
    )
    return found


def _rows(running: Pipeline) -> int:
    return int(running.query("SELECT count() AS n FROM traces SETTINGS final = 0")[0]["n"])


def _until(running: Pipeline, enough: Callable[[int], bool], started: float) -> tuple[float, int]:
    """When the number of rows was *enough*, and what it was then."""
    while time.monotonic() - started < DRAINED_WITHIN_S:
        try:
            rows = _rows(running)
        except TracetuneError:
            rows = -1
        if rows >= 0 and enough(rows):
            return time.monotonic(), rows
        time.sleep(POLL_S)
    raise BenchmarkError(f"the backlog did not drain within {DRAINED_WITHIN_S:.0f} s")
