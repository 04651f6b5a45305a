"""One turn: start a contender, warm it up, load it, and read what it cost. All turns of a round, in order."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.client import Asked, Target, run_client
from benchmarks.contenders import STARTS
from benchmarks.load_closed import ClosedLoop
from benchmarks.place import Place, Running
from benchmarks.priority import NICE_BESIDE, own_nice, pin
from benchmarks.process_cpu import busy_s, cpu_s, process_tree
from benchmarks.types import BenchmarkError, Cores, Load, Missing, Parameters, Times, Turn
from benchmarks.upstream import buffered_upstream, streaming_upstream
from benchmarks.wire import CHUNKS

SETTLE_WITHIN_S = 60.0  # for the processes beside a worker to finish what a load left them
SETTLE_POLL_S = 1.5
SETTLED_SHARE = 0.1  # of one core; below it they have nothing left to do
FIRST_ANSWERS = 1.4  # lifetimes of a stream that it takes until as many end as start
OF_STREAMS: dict[Load, tuple[str, str]] = {
    "streamed": ("streams", "stream_gap_ms"),
    "first token": ("many_streams", "many_gap_ms"),
}


class Bench:
    """What all turns share, and what they found so far. `say` is told each turn as it ends."""

    def __init__(
        self, parameters: Parameters, cores: Cores, folder: Path, say: Callable[[str], None] = print
    ) -> None:
        self.parameters = parameters
        self.cores = cores
        self.turns: list[Turn] = []
        self.missing: list[Missing] = []
        self.folder = folder
        self._say = say

    def rounds(self, load: Load, contenders: Sequence[str], rate: float = 0.0) -> None:
        """Every contender once in each round, one after the other. One that fails is left out afterwards."""
        out: set[str] = set()
        for number in range(self.parameters.rounds):
            for name in contenders:
                if name in out:
                    continue
                try:
                    turn = self._turn(name, load, number, rate)
                except BenchmarkError as error:
                    out.add(name)
                    self.missing.append(Missing(what=f"{name}, {load}", why=str(error)))
                    self._say(f"{load}, round {number + 1}: {name} is missing: {error}")
                else:
                    self.turns.append(turn)
                    self._say(f"{load}, round {number + 1}: {described(turn)}")

    @contextlib.contextmanager
    def reporting(self, what: str) -> Iterator[None]:
        """Where the block raises BenchmarkError, *what* is missing for that reason, and the run goes on."""
        try:
            yield
        except BenchmarkError as error:
            self.missing.append(Missing(what=what, why=str(error)))
            self._say(f"{what} is missing: {error}")

    @contextlib.contextmanager
    def running(self, name: str, load: Load, gap_ms: float) -> Iterator[Running]:
        """A fresh contender in front of a fresh upstream. Raises BenchmarkError."""
        folder = self.folder / f"{time.monotonic_ns()}"
        upstream = (
            streaming_upstream(folder / "upstream", self.cores.load, gap_ms)
            if load in OF_STREAMS
            else buffered_upstream(folder / "upstream", self.cores.load)
        )
        try:
            with upstream as port:
                place = Place(folder=folder, cores=self.cores, upstream=port)
                with STARTS[name](place) as running:
                    yield running
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _turn(self, name: str, load: Load, number: int, rate: float) -> Turn:
        gap_ms = getattr(self.parameters, OF_STREAMS[load][1]) if load in OF_STREAMS else 0
        with self.running(name, load, gap_ms) as running:
            looks: list[_Look] = []
            before = {what: cpu_s([pid]) for what, pid in running.beside.items()}
            times = self._load(load, number, rate, running, lambda: looks.append(_look(running, self.cores)))
            if len(looks) != 2:
                raise BenchmarkError("the load ended before it began to measure")
            spent_s = looks[1].spent_s - looks[0].spent_s
            backlog_s = settle(running, self.cores) if running.beside else None
            # What works beside a worker worked for the answers of the warm-up too.
            served = times.answers + times.warm_answers
            after = {what: cpu_s([pid]) for what, pid in running.beside.items()}
            return Turn(
                contender=name,
                load=load,
                round=number,
                times=times,
                cpu_us=spent_s / times.answers * 1e6 if running.workers else None,
                others_share=_others(looks[0], looks[1]) if running.workers else None,
                beside_us={what: (after[what] - before[what]) / served * 1e6 for what in before},
                backlog_s=backlog_s,
                dropped=running.dropped() if running.dropped is not None else None,
                stored=running.stored() if running.stored is not None else None,
            )

    def _load(
        self, load: Load, number: int, rate: float, running: Running, between: Callable[[], None]
    ) -> Times:
        asked, core = self.parameters, self.cores.load
        target = Target(port=running.port, headers=running.headers, sessions=asked.sessions)
        match load:
            case "buffered":
                folder = self.folder / "wrk"
                closed = ClosedLoop(target, connections=asked.connections, core=core, folder=folder)
                return closed.measured(asked.warm_s, asked.measure_s, between)
            case "open loop":
                wish = Asked(
                    target=target, warm_s=asked.warm_s, measure_s=asked.open_s, rate=rate, seed=number
                )
                return run_client("benchmarks.load_open", wish, core, between)
            case "streamed":
                wish = Asked(
                    target=target, warm_s=asked.warm_s, measure_s=asked.measure_s, streams=asked.streams
                )
            case "first token":
                warm_s = CHUNKS * asked.many_gap_ms / 1000 * FIRST_ANSWERS
                wish = Asked(target=target, warm_s=warm_s, measure_s=asked.many_s, streams=asked.many_streams)
        return run_client("benchmarks.streams", wish, core, between)


class _Look(NamedTuple):
    """What was spent up to a moment: by the contender, and on the cores that it may use by everyone."""

    at: float
    spent_s: float
    busy_s: float
    cores: int


def _look(running: Running, cores: Cores) -> _Look:
    used = [core for core in cores.workers[: max(1, len(running.workers))] if core != cores.load]
    return _Look(time.monotonic(), cpu_s(process_tree(running.workers)), busy_s(used), len(used))


def _others(first: _Look, last: _Look) -> float:
    """The share of the contender's cores that went to everyone else."""
    others_s = (last.busy_s - first.busy_s) - (last.spent_s - first.spent_s)
    return max(0.0, others_s / (last.at - first.at) / first.cores)


def settle(running: Running, cores: Cores, within_s: float = SETTLE_WITHIN_S) -> float:
    """Wait until what works beside the workers has nothing left to do, at most *within_s*.

    Returns the seconds it took. Nothing is held back meanwhile: whoever starves looks idle.
    """
    pids = list(running.beside.values())
    _set_pace(pids, cores, own_nice())
    started_at, before = time.monotonic(), cpu_s(pids)
    while time.monotonic() - started_at < within_s:
        time.sleep(SETTLE_POLL_S)
        now = cpu_s(pids)
        if now - before < SETTLED_SHARE * SETTLE_POLL_S:
            break
        before = now
    _set_pace(pids, cores, NICE_BESIDE)
    return time.monotonic() - started_at


def _set_pace(pids: list[int], cores: Cores, nice: int) -> None:
    if cores.shared:
        for pid in pids:
            pin(pid, cores.beside, nice)


def described(turn: Turn) -> str:
    """One turn in a line, for whoever waits."""
    cpu = f"{turn.cpu_us:.1f} us of CPU, " if turn.cpu_us is not None else ""
    times = turn.times
    return (
        f"{turn.contender}: {cpu}{times.per_second:.0f}/s, p50 {times.p50_ms:.3f} ms, "
        f"p99 {times.p99_ms:.3f} ms, {times.errors} errors"
    )
