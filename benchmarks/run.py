"""Measures everything in one go, prints one table and writes one JSON.

    python -m benchmarks.run [--quick] [--name NAME] [--only LOAD ...]

Gateway and load have a core each. In a round every contender has its turn, with fresh processes; there are as
many rounds as `--rounds` says. Whatever a run started ends with it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import sys
from pathlib import Path

import msgspec

from benchmarks.contenders import STARTS
from benchmarks.figures import of_round
from benchmarks.machine import commit, this_machine, versions
from benchmarks.memory import measure_memory
from benchmarks.priority import may_run_first, set_nice, set_session_nice
from benchmarks.processes import interruptible, raise_open_files
from benchmarks.quantiles import median
from benchmarks.report import Result, table, write
from benchmarks.turns import Bench
from benchmarks.types import QUICK, BenchmarkError, Memory, Parameters, share_cores
from benchmarks.work_folder import work_folder

RESULTS = Path(__file__).resolve().parent / "results"
RUN_WITHIN_S = 3600.0
PARTS = ("buffered", "streamed", "open-loop", "first-token", "memory")
STREAMED = [name for name in STARTS if name not in {"ours, capture none", "ours, two workers"}]
TIMED = ["direct", "vllm-router", "ours"]  # `direct` and ours side by side, and one more to compare with
_NAME = re.compile(r"^[A-Za-z0-9._-]+$")


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The command line. Exits with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that everything runs")
    parser.add_argument("--name", help="of the result's file (default: the date and the mode)")
    parser.add_argument("--rounds", type=int, help="how often every contender has its turn")
    parser.add_argument(
        "--sessions", type=int, help="sessions that requests name in turn; 1: all heads equal"
    )
    parser.add_argument("--nice", type=int, help="of load, upstream and contender; below 0 takes root")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    options = parser.parse_args(arguments)
    if options.name is not None and not _NAME.match(options.name):
        parser.error("--name may hold letters, digits, dots, hyphens and underscores")
    if any(number is not None and number < 1 for number in (options.rounds, options.sessions)):
        parser.error("--rounds and --sessions are at least 1")
    return options


def parameters_of(options: argparse.Namespace) -> Parameters:
    """How hard and how long, with what the command line changed."""
    base = QUICK if options.quick else Parameters()
    changes = {"rounds": options.rounds, "sessions": options.sessions, "nice": options.nice}
    return msgspec.structs.replace(
        base, **{name: value for name, value in changes.items() if value is not None}
    )


def open_rate(bench: Bench) -> float:
    """The share of the saturation of ours that the open loop runs at. Raises BenchmarkError if unknown."""
    if not of_round(bench.turns, "ours", "buffered"):
        bench.rounds("buffered", ["ours"])
    found = [turn.times.per_second for turn in of_round(bench.turns, "ours", "buffered").values()]
    if not found:
        raise BenchmarkError("the saturation of ours is not known")
    return median(found) * bench.parameters.load_share


def measure(bench: Bench, parts: list[str]) -> tuple[float | None, Memory | None]:
    """All *parts*, in order: the rate of the open loop, and what was found of memory."""
    rate: float | None = None
    memory: Memory | None = None
    if "buffered" in parts:
        bench.rounds("buffered", list(STARTS))
    if "streamed" in parts:
        bench.rounds("streamed", STREAMED)
    if "open-loop" in parts:
        with bench.reporting("open loop"):
            rate = open_rate(bench)
            bench.rounds("open loop", TIMED, rate)
    if "first-token" in parts:
        bench.rounds("first token", TIMED)
    if "memory" in parts:
        with bench.reporting("memory"):
            memory = measure_memory(bench, progress)
    return rate, memory


def progress(line: str) -> None:
    """Tell whoever waits, apart from the table."""
    print(line, file=sys.stderr, flush=True)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def run(parameters: Parameters, parts: list[str], name: str) -> Result:
    """Measure. Raises BenchmarkError where the machine does not allow it, or it takes too long."""
    raise_open_files()
    if parameters.nice != 0:
        set_nice(0, parameters.nice)
        set_session_nice("self", parameters.nice)
    cores = share_cores(sorted(os.sched_getaffinity(0)))
    machine, began_at = this_machine(), _now()
    with work_folder() as folder:
        bench = Bench(parameters, cores, folder, progress)
        rate, memory = measure(bench, parts)
    return Result(
        name=name,
        commit=commit(),
        began_at=began_at,
        ended_at=_now(),
        machine=machine,
        cores=cores,
        versions=versions(),
        parameters=parameters,
        load_first=may_run_first(),
        open_rate=rate,
        turns=bench.turns,
        memory=memory,
        missing=bench.missing,
    )


def main(arguments: list[str]) -> int:
    """The command; its exit status. A figure that is not reached is no failure of the run."""
    options = options_of(arguments)
    mode = "quick" if options.quick else "full"
    name = options.name or f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-{mode}"
    try:
        with interruptible(RUN_WITHIN_S):
            result = run(parameters_of(options), options.only, name)
    except BenchmarkError as error:
        progress(f"error: {error}")
        return 1
    print(table(list(STARTS), result))
    print(f"\n{write(result, RESULTS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
