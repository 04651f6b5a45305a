"""`python -m benchmarks.load_open JSON`: buffered requests that arrive whether or not the last was answered.

Arrivals are a Poisson process from a seed: two runs with one seed have the same. A request counts from the
moment that it was due, so that one that a busy connection holds up is slow and not absent. A timer of the
kernel wakes us at each: those of event loops round up to whole milliseconds, and would send in bursts.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable

import msgspec
import uvloop

from benchmarks.client import MEASURING, Asked, read_asked, times_of
from benchmarks.connection import Connection, connect
from benchmarks.types import BenchmarkError, Times
from benchmarks.wire import requests

CONNECTIONS = 128  # more than are ever in flight well below saturation
LAST_ANSWERS_S = 2.0
_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 0o4000, 0o2000000, 1
_libc = ctypes.CDLL(None, use_errno=True)


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`: the interval, which stays 0, and when to fire."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Timer:
    """A file descriptor that becomes readable at a time on `time.monotonic`'s clock."""

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise BenchmarkError(f"no timer: {os.strerror(ctypes.get_errno())}")

    def arm(self, at: float) -> None:
        """Fire at *at*, at once where that is past."""
        seconds = int(at)
        spec = _TimerSpec(0, 0, seconds, max(1, int((at - seconds) * 1e9)))
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)

    def clear(self) -> None:
        """Take the news that it fired."""
        os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, in seconds from the start: a Poisson process of *rate* per second. Pure."""
    chance = random.Random(seed)
    found: list[float] = []
    at = chance.expovariate(rate)
    while at < seconds:
        found.append(at)
        at += chance.expovariate(rate)
    return found


class OpenLoop:
    """The connections, what is due, and what was found."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        target = asked.target
        self._requests = itertools.cycle(
            requests(stream=False, sessions=target.sessions, more=target.headers)
        )
        self._idle: list[Connection] = []
        self._held: deque[float] = deque()  # due, and no connection is idle
        self._measured_from = 0.0
        self.seconds: list[float] = []
        self.errors = 0
        self.warm_answers = 0

    async def run(self) -> Times:
        """Send everything when it is due. Raises OSError, BenchmarkError."""
        asked = self._asked
        self._idle = [await connect(asked.target.port) for _ in range(CONNECTIONS)]
        start = time.monotonic()
        self._measured_from = start + asked.warm_s
        due = deque(start + at for at in arrivals(asked.rate, asked.warm_s + asked.measure_s, asked.seed))
        asyncio.get_running_loop().call_later(asked.warm_s, lambda: print(MEASURING, flush=True))
        await self._send_all(due)
        for _ in range(int(LAST_ANSWERS_S * 100)):
            if len(self._idle) == CONNECTIONS:
                break
            await asyncio.sleep(0.01)
        self.errors += len(self._held)
        for connection in self._idle:
            connection.close()
        return times_of(self.seconds, self.errors, asked.measure_s, self.warm_answers)

    async def _send_all(self, due: deque[float]) -> None:
        loop, timer = asyncio.get_running_loop(), Timer()
        ended: asyncio.Future[None] = loop.create_future()

        def fire() -> None:
            timer.clear()
            now = time.monotonic()
            while due and due[0] <= now:
                self._send(due.popleft())
            if due:
                timer.arm(due[0])
            elif not ended.done():
                ended.set_result(None)

        loop.add_reader(timer.fd, fire)
        try:
            timer.arm(due[0])
            await ended
        finally:
            loop.remove_reader(timer.fd)
            timer.close()

    def _send(self, due_at: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(next(self._requests), self._answered(due_at))
                return
        self._held.append(due_at)

    def _answered(self, due_at: float) -> Callable[[Connection, bool], None]:
        def answered(connection: Connection, ok: bool) -> None:
            if due_at >= self._measured_from:
                if ok:
                    self.seconds.append(time.monotonic() - due_at)
                else:
                    self.errors += 1
            elif ok:
                self.warm_answers += 1
            self._idle.append(connection)
            if self._held and connection.usable:
                self._send(self._held.popleft())

        return answered


def main() -> None:
    """The process. What it found goes to standard output as JSON."""
    try:
        times = uvloop.run(OpenLoop(read_asked(sys.argv[1])).run())
    except (BenchmarkError, OSError) as error:
        raise SystemExit(str(error)) from error
    print(msgspec.json.encode(times).decode(), flush=True)


if __name__ == "__main__":
    main()
