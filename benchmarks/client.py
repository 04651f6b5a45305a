"""What the two clients of our own share: how they are asked, and how they tell what they found.

A client is a process of its own. It prints `measuring` when its warm-up is over, and one line of JSON at the
end of the measured time, so that whoever started it reads the CPU of the contender at these two moments.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.processes import prepared
from benchmarks.quantiles import percentile
from benchmarks.types import BenchmarkError, Times

REPOSITORY = Path(__file__).resolve().parents[1]
MEASURING = "measuring"
MARGIN_S = 60.0  # beyond what a client was asked for, for opening and closing connections


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask, and with which headers beyond those that all requests carry."""

    port: int
    headers: dict[str, str] = {}
    sessions: int = 1


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a client. `rate`, of the open loop, is in requests per second."""

    target: Target
    warm_s: float
    measure_s: float
    streams: int = 0
    rate: float = 0.0
    seed: int = 0


def read_asked(argument: str) -> Asked:
    """What a client's command line says."""
    return msgspec.json.decode(argument, type=Asked)


def times_of(
    seconds: list[float], errors: int, measured_s: float, warm_answers: int, refusal: str = ""
) -> Times:
    """What was found, from the time that each answer took. Raises BenchmarkError where there was none."""
    if not seconds:
        said = f"; the last one: {refusal}" if refusal else ""
        raise BenchmarkError(f"nothing was answered within {measured_s:.0f} s, {errors} errors{said}")
    return Times(
        answers=len(seconds),
        errors=errors,
        seconds=measured_s,
        p50_ms=percentile(seconds, 50) * 1000,
        p99_ms=percentile(seconds, 99) * 1000,
        warm_answers=warm_answers,
    )


def run_client(module: str, asked: Asked, core: int, between: Callable[[], None]) -> Times:
    """Run a client on *core*; *between* is called when it begins to measure and when it has ended.

    Raises BenchmarkError where it fails or does not end in time.
    """
    within_s = asked.warm_s + asked.measure_s + MARGIN_S
    process = subprocess.Popen(
        [sys.executable, "-m", module, msgspec.json.encode(asked).decode()],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepared(core, is_load=True),  # noqa: PLW1509 -- no thread runs while this forks
    )
    too_late = threading.Timer(within_s, process.kill)
    too_late.start()
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() == MEASURING:
            between()
        line = process.stdout.readline()
        between()
        _, complaints = process.communicate()
    finally:
        too_late.cancel()
        process.kill()
        process.wait()
    try:
        return msgspec.json.decode(line, type=Times)
    except msgspec.DecodeError as error:
        late = f"it did not end within {within_s:.0f} s" if process.returncode < 0 else "it said nothing"
        said = (complaints.strip().splitlines() or [late])[-1]
        raise BenchmarkError(f"{module}: {said}") from error
