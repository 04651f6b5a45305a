"""`python -m benchmarks.streams JSON`: streams, many at once; each lane starts the next when one has ended.

The first streams are spread over the warm-up, so that starts and ends never come in waves.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import msgspec
import uvloop

from benchmarks.client import MEASURING, Asked, read_asked, times_of
from benchmarks.connection import Connection, connect
from benchmarks.types import BenchmarkError, Times
from benchmarks.wire import requests

SPREAD = 0.7  # of the warm-up: the rest lets what was started settle
RETRY_S = 0.05  # after a failed connection or answer, so that a refusing server is not flooded


class Streams:
    """All lanes and what they found while it was measured."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        target = asked.target
        self._requests = itertools.cycle(requests(stream=True, sessions=target.sessions, more=target.headers))
        self._refusal = ""
        self.measuring = False
        self.errors = 0
        self.warm_answers = 0
        self.first_s: list[float] = []

    async def run(self) -> Times:
        """Warm up, measure, and cut off what still runs. Raises BenchmarkError where nothing was answered."""
        lanes = [asyncio.create_task(self._lane(number)) for number in range(self._asked.streams)]
        await asyncio.sleep(self._asked.warm_s)
        print(MEASURING, flush=True)
        self.measuring = True
        started_at = time.monotonic()
        await asyncio.sleep(self._asked.measure_s)
        self.measuring = False
        measured_s = time.monotonic() - started_at
        for lane in lanes:
            lane.cancel()
        return times_of(self.first_s, self.errors, measured_s, self.warm_answers, self._refusal)

    async def _lane(self, number: int) -> None:
        await asyncio.sleep(self._asked.warm_s * SPREAD * number / self._asked.streams)
        connection: Connection | None = None
        while True:
            try:
                if connection is None or not connection.usable:
                    connection = await connect(self._asked.target.port)
                ok, first_s = await self._stream(connection)
            except OSError:
                ok, first_s = False, 0.0
            if self.measuring:
                if ok:
                    self.first_s.append(first_s)
                else:
                    self.errors += 1
            elif ok:
                self.warm_answers += 1
            if not ok:
                await asyncio.sleep(RETRY_S)

    async def _stream(self, connection: Connection) -> tuple[bool, float]:
        """Whether one stream was whole, and the seconds until its first token."""
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        sent_at = time.monotonic()

        def done(_: Connection, ok: bool) -> None:
            if not ended.done():  # a lane that was cut off has cancelled it
                ended.set_result(ok)

        connection.send(next(self._requests), done)
        ok = await ended
        self._refusal = connection.refusal or self._refusal
        return ok, connection.first_at - sent_at


def main() -> None:
    """The process. What it found goes to standard output as JSON."""
    try:
        times = uvloop.run(Streams(read_asked(sys.argv[1])).run())
    except BenchmarkError as error:
        raise SystemExit(str(error)) from error
    print(msgspec.json.encode(times).decode(), flush=True)


if __name__ == "__main__":
    main()
