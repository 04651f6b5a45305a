"""`python -m benchmarks.crash`: SIGKILL at random moments under load, and what it cost. `make crash` runs it.

A run waits a random while, kills one or two of the workers, the recorder, the shipper and the store, starts
them again, and waits until every id that a client has read to its end is stored. The outage at the end leaves
the store away under steady load, and looks at how fast the backlog drains once it is back. All chance comes
from the seed, which is printed: `--seed S --first N --runs 1` does again what run N did.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.ledger import Ledger
from benchmarks.machine import Machine, commit, this_machine
from benchmarks.outage import Outage, outage
from benchmarks.pipeline import STAGES, Pipeline, pipeline
from benchmarks.processes import interruptible
from benchmarks.result_file import tell
from benchmarks.types import BenchmarkError
from benchmarks.work_folder import work_folder
from gateway.errors import TracetuneError

RATE = 150.0  # requests per second: each stage always has something in its hand
KILL_WITHIN_S = 1.2
START_WITHIN_S = 0.2
TWO_AT_ONCE = 0.25  # of the runs
WHOLE_WITHIN_S = 900.0  # nothing is lost by a machine that does something else meanwhile
LIMIT_S = 4 * 3600.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does: pure chance from its seed."""

    killed: list[str]
    kill_after_s: float
    start_after_s: float


class CrashRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `missing`: ids that were read to their end and not stored; `twice`: stored more than once."""

    number: int
    plan: Plan
    read: int
    missing: int
    twice: int
    whole_after_s: float  # from the kill until all that was read is stored


class CrashResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole result; the JSON is exactly this."""

    commit: str
    began_at: str
    machine: Machine
    seed: int
    rate: float
    runs: list[CrashRun]
    outage: Outage | None
    read: int
    never_stored: int  # of all ids ever read, when all was over
    stored_twice: int
    minutes_off: int  # traces that the per-minute aggregates count too many or too few
    torn: int
    dropped: dict[str, int]
    quarantined: int

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled, nothing set aside."""
        bad = (self.never_stored, self.stored_twice, self.quarantined, *self.dropped.values())
        return not any(bad) and not any(run.missing or run.twice for run in self.runs)


def plan_run(seed: int, number: int) -> Plan:
    """Run *number* under *seed*. Pure."""
    chance = random.Random(f"{seed}-{number}")
    count = 2 if chance.random() < TWO_AT_ONCE else 1
    return Plan(
        killed=chance.sample(STAGES, count),
        kill_after_s=chance.uniform(0.02, KILL_WITHIN_S),
        start_after_s=chance.uniform(0, START_WITHIN_S),
    )


def crash(running: Pipeline, ledger: Ledger, number: int, plan: Plan) -> CrashRun:
    """Do *plan*. Raises BenchmarkError where a process ended that nobody killed."""
    time.sleep(plan.kill_after_s)
    for name in plan.killed:
        running.kill(name)
    killed_at = time.monotonic()
    time.sleep(plan.start_after_s)
    for name in reversed(plan.killed):
        running.start(name)
    read = ledger.take()
    missing = ledger.settle(running, WHOLE_WITHIN_S)
    whole_after_s = time.monotonic() - killed_at
    if ended := running.ended():
        raise BenchmarkError(f"run {number}: {', '.join(ended)} ended by itself; see its log")
    return CrashRun(
        number=number,
        plan=plan,
        read=read,
        missing=missing,
        twice=ledger.twice(running),
        whole_after_s=round(whole_after_s, 2),
    )


def run(
    folder: Path,
    *,
    seed: int,
    first: int,
    runs: int,
    outage_s: float,
    say: Callable[[str], None],
) -> CrashResult:
    """*runs* runs from *first* on, then an outage of *outage_s* seconds (0: none), in *folder*.

    Raises BenchmarkError, TracetuneError.
    """
    began, began_us = datetime.now(UTC), time.time_ns() // 1000
    machine, found = this_machine(), list[CrashRun]()
    say(f"seed {seed}")
    with pipeline(folder) as running:
        ids = folder / "ids"
        ledger = Ledger(ids, began_us)
        running.read(ids, rate=RATE, seed=seed)
        for number in range(first, first + runs):
            done = crash(running, ledger, number, plan_run(seed, number))
            found.append(done)
            say(
                f"run {number}: killed {' and '.join(done.plan.killed)}, {done.read} read, "
                f"{done.missing} missing, {done.twice} twice, whole after {done.whole_after_s:.1f} s"
            )
        running.kill("readers")
        down = None
        if outage_s:
            down = outage(running, ledger, ids, seconds=outage_s, rate=RATE, seed=seed, say=say)
        ledger.take()
        ledger.settle(running, WHOLE_WITHIN_S)
        rows = running.query("SELECT count() AS n FROM traces SETTINGS final = 0")[0]["n"]
        counted = running.query("SELECT sum(traces) AS n FROM traces_by_minute")[0]["n"]
        recorder, shipper = running.report("recorder"), running.report("shipper")
        return CrashResult(
            commit=commit(),
            began_at=began.isoformat(timespec="seconds"),
            machine=machine,
            seed=seed,
            rate=RATE,
            runs=found,
            outage=down,
            read=ledger.read,
            never_stored=ledger.never_stored(running),
            stored_twice=ledger.twice(running),
            minutes_off=abs(int(counted) - int(rows)),
            torn=recorder.get("torn", 0) + shipper.get("torn", 0),
            dropped=recorder.get("dropped", {}),
            quarantined=recorder.get("quarantined", 0) + shipper.get("quarantined", 0),
        )


def main() -> int:
    """The command; 0 where nothing was lost and nothing doubled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--outage-s", type=float, default=600.0, help="0: none")
    today = f"{datetime.now(UTC):%Y-%m-%d}-crash"
    parser.add_argument("--name", default=today, help="of the JSON in benchmarks/results; empty: none")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    try:
        with interruptible(LIMIT_S), work_folder() as folder:
            result = run(
                folder,
                seed=seed,
                first=options.first,
                runs=options.runs,
                outage_s=options.outage_s,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
    except (BenchmarkError, TracetuneError) as error:
        raise SystemExit(f"{error} (seed {seed})") from error
    tell(result, options.name)
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
