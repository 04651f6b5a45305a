"""`python -m benchmarks.judge_kills`: SIGKILL of what judges, at random moments, and what it cost.

`make kill-judges` runs it. Each run starts the judges' process of `up`, or `tracetune judge run`, adds
traces, and kills it after a random while; what it had started must be gone soon after. At the end everything
is judged to its end, and every trace must have one judgment by each judge. All chance comes from the seed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.judged_store import ENVIRONMENT, Judged, add, judged_store, some_traces, verdicts, write_judge
from benchmarks.machine import Machine, commit, this_machine
from benchmarks.processes import interruptible
from benchmarks.result_file import tell
from benchmarks.types import BenchmarkError
from benchmarks.work_folder import work_folder
from gateway.errors import TracetuneError
from judges.definition import definition_of
from judges.guard import descendants

KILL_WITHIN_S = 2.0
WHILE_STARTING = 0.2  # of the runs; the others are killed while they judge
ADDED = 100  # traces each time
START_WITHIN_S = 60.0
GONE_WITHIN_S = 10.0
RUN_WITHIN_S = 600.0
LIMIT_S = 3600.0
MARK = "judging"  # a file that is there once the judges judge
SLOW = (
    "import pathlib, time\n"
    "def good(trace):\n"
    "    pathlib.Path({mark!r}).touch()\n"
    "    time.sleep(0.01)\n"
    "    return True\n"
)
COMMANDS = {
    "runner": ["judges.runner"],
    "judge run": ["gateway.cli.root", "judge", "run"],
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is killed, and how many seconds after its start, or after the first verdict of it."""

    command: str
    starting: bool
    after_s: float


class Killed(msgspec.Struct, frozen=True, kw_only=True):
    """One kill. `judged`: verdicts stored by then; `left`: processes that outlived it for GONE_WITHIN_S."""

    number: int
    plan: Plan
    judged: int
    left: int


class KillsResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole result; the JSON is exactly this. `judges` counts by judge, in the end.

    `rows` beyond `traces` were stored twice and replace each other: one judgment is in force.
    """

    commit: str
    began_at: str
    machine: Machine
    seed: int
    traces: int
    kills: list[Killed]
    judges: dict[str, dict[str, int]]

    @property
    def clean(self) -> bool:
        """Every trace judged once by each judge, and nothing left running."""
        whole = all(found["traces"] == found["judgments"] == self.traces for found in self.judges.values())
        return whole and not any(kill.left for kill in self.kills)


def plan(seed: int, number: int) -> Plan:
    """What run *number* under *seed* does: pure chance from its seed."""
    chance = random.Random(f"{seed}-{number}")
    return Plan(
        command=chance.choice(sorted(COMMANDS)),
        starting=chance.random() < WHILE_STARTING,
        after_s=chance.uniform(0, KILL_WITHIN_S),
    )


def kill_once(judged: Judged, number: int, seed: int) -> Killed:
    """Add some traces, and do what the plan says of run *number*."""
    planned = plan(seed, number)
    mark = judged.config_path.parent / MARK
    mark.unlink(missing_ok=True)
    add(judged.store, some_traces(ADDED, number + 1), f"run-{number}")
    process = _start(judged, planned.command)
    until = time.monotonic() + START_WITHIN_S
    while not planned.starting and not mark.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise BenchmarkError(f"run {number}: {planned.command} starts no judge")
        time.sleep(0.01)
    time.sleep(planned.after_s)
    started = descendants(process.pid)
    process.kill()
    process.wait()
    return Killed(
        number=number,
        plan=planned,
        judged=sum(_counted(judged, name)["traces"] for name in ("one", "several")),
        left=_left(started),
    )


def run(folder: Path, *, seed: int, kills: int, say: Callable[[str], None]) -> KillsResult:
    """*kills* kills over a store in *folder*. Raises BenchmarkError, TracetuneError."""
    began, machine = datetime.now(UTC), this_machine()
    say(f"seed {seed}")
    source = SLOW.format(mark=str(folder / MARK))
    judges = [
        write_judge(folder, "one", source),
        {**write_judge(folder, "several", source), "limits": {"concurrent": 3}},
    ]
    with judged_store(folder, judges) as judged:
        done: list[Killed] = []
        for number in range(kills):
            done.append(kill_once(judged, number, seed))
            last = done[-1]
            found = f"{last.judged} judged by then, {last.left} left running"
            say(f"run {number}: {last.plan.command} killed after {last.plan.after_s:.1f} s, {found}")
        if (code := _start(judged, "judge run").wait(RUN_WITHIN_S)) != 0:
            raise BenchmarkError(f"`judge run` ended with {code}")
        return KillsResult(
            commit=commit(),
            began_at=began.isoformat(timespec="seconds"),
            machine=machine,
            seed=seed,
            traces=kills * ADDED,
            kills=done,
            judges={name: _counted(judged, name) for name in ("one", "several")},
        )


def _counted(judged: Judged, name: str) -> dict[str, int]:
    (entry,) = [entry for entry in judged.config.judges if entry.name == name]
    return verdicts(judged.store, name, definition_of(entry).version)


def _start(judged: Judged, command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *COMMANDS[command], "--config", str(judged.config_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
    )


def _left(pids: list[int]) -> int:
    until = time.monotonic() + GONE_WITHIN_S
    while (left := sum(Path(f"/proc/{pid}").exists() for pid in pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def main() -> int:
    """The command; 0 where every trace was judged once and nothing was left running."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--name", help="of the file in benchmarks/results, without .json; default: none")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    try:
        with interruptible(LIMIT_S), work_folder() as folder:
            result = run(
                folder,
                seed=seed,
                kills=options.kills,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
    except (BenchmarkError, TracetuneError) as error:
        raise SystemExit(f"{error} (seed {seed})") from error
    tell(result, options.name)
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
