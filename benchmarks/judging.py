"""`python -m benchmarks.judging`: traces a second that a judge of Python gets through, and judging anew.

The pace: stored traces of 3 KB out of the store, through the judge's process, and the judgments back, all of
it (store, runner and judge) on one core. Judging anew: one of two judges is changed, and `tracetune judge
run` judges what it touches while the store is being written to; it is killed half way and started again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.judged_store import (
    ENVIRONMENT,
    JUDGE,
    Judged,
    add,
    judged_store,
    some_traces,
    verdicts,
    write_judge,
)
from benchmarks.machine import Machine, commit, this_machine
from benchmarks.process_cpu import cpu_s
from benchmarks.processes import interruptible
from benchmarks.result_file import tell
from benchmarks.types import BenchmarkError
from benchmarks.work_folder import work_folder
from gateway.errors import TracetuneError
from gateway.traces.store import Store
from judges.definition import definition_of
from judges.executor import executor_of
from judges.guard import descendants
from judges.once import judge_once
from judges.passes import version_of

WANTED_PER_S = 5_000
ANSWERED = "trace.finish_reason == 'stop' and len(trace.answer) > 10"
WRITTEN_EVERY_S = 0.2
WRITTEN_AT_ONCE = 20
RUN_WITHIN_S = 600.0
LIMIT_S = 3600.0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """CPU is user + system time a trace, in microseconds; `per_s` by the clock, `per_core_s` by the CPU."""

    traces: int
    seconds: float
    per_s: int
    per_core_s: int
    runner_cpu_us: float
    judge_cpu_us: float
    store_cpu_us: float
    wanted_per_s: int = WANTED_PER_S


class Anew(msgspec.Struct, frozen=True, kw_only=True):
    """A changed judge over traces that the former version had judged.

    `stored_at_kill`: verdicts of the new version when the run was killed; `twice`: traces whose verdict was
    stored more than once; `untouched`: the other judge, and the former version, have what they had.
    """

    traces: int
    written_meanwhile: int
    seconds: float
    stored_at_kill: int
    judged: int
    twice: int
    untouched: bool


class JudgingResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole result; the JSON is exactly this."""

    commit: str
    began_at: str
    machine: Machine
    pace: Pace
    anew: Anew


def measure_pace(folder: Path, count: int) -> Pace:
    """All processes on the core that this one is on, the store's own threads among them."""
    plain = write_judge(folder, "plain", JUDGE.format(verdict=ANSWERED))
    with _one_core(), judged_store(folder, [plain]) as judged:
        add(judged.store, some_traces(count, 1), "pace")
        entry = judged.config.judges[0]
        with executor_of(judged.config, entry, definition_of(entry)) as executor:
            executor.start()
            workers = [pid for pid in descendants(os.getpid()) if pid != judged.process]
            own_s, store_s, judge_s = time.process_time(), cpu_s([judged.process]), cpu_s(workers)
            began = time.monotonic()
            tally = judge_once(
                judged.store, executor, version_of(entry, definition_of(entry)), stored=lambda _: None
            )
            seconds = time.monotonic() - began
            own_s = time.process_time() - own_s
            store_s, judge_s = cpu_s([judged.process]) - store_s, cpu_s(workers) - judge_s
        if tally.judged != count:
            raise BenchmarkError(f"of {count} traces {tally.judged} were judged")
    return Pace(
        traces=count,
        seconds=round(seconds, 2),
        per_s=round(count / seconds),
        per_core_s=round(count / (own_s + store_s + judge_s)),
        runner_cpu_us=round(own_s / count * 1e6, 1),
        judge_cpu_us=round(judge_s / count * 1e6, 1),
        store_cpu_us=round(store_s / count * 1e6, 1),
    )


def judge_anew(folder: Path, count: int) -> Anew:
    """Raises BenchmarkError where a run fails."""
    changed = write_judge(folder, "changed", JUDGE.format(verdict="True"))
    other = write_judge(folder, "other", JUDGE.format(verdict="False"))
    with judged_store(folder, [changed, other]) as judged:
        add(judged.store, some_traces(count, 1), "first")
        _judge_run(judged)
        entries = judged.config.judges
        former = [(entry.name, definition_of(entry).version) for entry in entries]
        digests = [_digest(judged.store, *which) for which in former]
        write_judge(folder, "changed", "import time\n" + JUDGE.format(verdict="time.sleep(0.0005) or True"))
        version = definition_of(entries[0]).version
        with _written_to(judged) as written:
            began = time.monotonic()
            killed = _start(judged)
            while (at_kill := verdicts(judged.store, "changed", version)["traces"]) < count // 2:
                if killed.poll() is not None:
                    raise BenchmarkError("the run ended before half of the traces were judged")
                time.sleep(0.02)
            killed.kill()
            killed.wait()
            _judge_run(judged)
            seconds = time.monotonic() - began
        _judge_run(judged)  # what was written while the last run was at its end
        found = verdicts(judged.store, "changed", version)
        if found["traces"] != count + sum(written) or found["judgments"] != found["traces"]:
            raise BenchmarkError(f"of {count + sum(written)} traces {found} were judged")
        return Anew(
            traces=count,
            written_meanwhile=sum(written),
            seconds=round(seconds, 1),
            stored_at_kill=at_kill,
            judged=found["traces"],
            twice=found["rows"] - found["traces"],
            untouched=digests == [_digest(judged.store, *which) for which in former],
        )


def _digest(store: Store, judge: str, version: str) -> object:
    """Of the verdicts on the traces that were there first, and of when they were given."""
    rows = store.query(
        "SELECT groupBitXor(cityHash64(trace_id, score, judged_at)) AS digest, count() AS n FROM judgments "
        "WHERE judge = {judge:String} AND version = {version:String} "
        "AND trace_id IN (SELECT trace_id FROM traces WHERE session LIKE '1-%')",
        {"judge": judge, "version": version},
    )
    return rows[0]


def _start(judged: Judged) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway.cli.root", "judge", "run", "--config", str(judged.config_path)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}
    )


def _judge_run(judged: Judged) -> None:
    if (code := _start(judged).wait(RUN_WITHIN_S)) != 0:
        raise BenchmarkError(f"`judge run` ended with {code}")


@contextmanager
def _written_to(judged: Judged) -> Iterator[list[int]]:
    """Traces keep arriving until the end of the block; how many, insert by insert."""
    written: list[int] = []
    stop = threading.Event()

    def write() -> None:
        with Store.connect(judged.config) as store:
            while not stop.wait(WRITTEN_EVERY_S):
                seed = 2 + len(written)
                add(store, some_traces(WRITTEN_AT_ONCE, seed), f"arrived-{seed}")
                written.append(WRITTEN_AT_ONCE)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield written
    finally:
        stop.set()
        writer.join()


@contextmanager
def _one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    """The command. What it found goes to standard output as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description=__doc__)
    parser.add_argument("--traces", type=int, default=60_000, help="for the pace")
    parser.add_argument("--anew", type=int, default=10_000, help="for a changed judge")
    parser.add_argument("--name", help="of the file in benchmarks/results, without .json; default: none")
    options = parser.parse_args()
    began, machine = datetime.now(UTC), this_machine()
    try:
        with interruptible(LIMIT_S):
            with work_folder() as folder:
                pace = measure_pace(folder, options.traces)
            with work_folder() as folder:
                anew = judge_anew(folder, options.anew)
    except (BenchmarkError, TracetuneError) as error:
        raise SystemExit(str(error)) from error
    result = JudgingResult(
        commit=commit(), began_at=began.isoformat(timespec="seconds"), machine=machine, pace=pace, anew=anew
    )
    tell(result, options.name)


if __name__ == "__main__":
    main()
