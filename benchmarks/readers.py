"""`python -m benchmarks.readers JSON`: clients that note the trace id of every answer they read to its end.

A client sends at its own pace, buffered and streamed in turns, whatever happens to the gateway. An id goes to
the file only once the last byte of its answer is here: what breaks off before was promised to nobody.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys

import msgspec
import uvloop

from benchmarks.connection import Connection
from benchmarks.wire import requests

SESSIONS = 64
AGAIN_AFTER_S = 0.05  # a connection that was refused or broke
ANSWER_WITHIN_S = 30.0
_TRACE_ID = re.compile(rb"\r\nx-tracetune-trace-id: *([^\r\n]+)", re.IGNORECASE)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is asked for."""

    port: int
    clients: int
    rate: float  # requests per second, of all clients together
    seed: int
    ids: str  # the file that ids are appended to, one a line


class IdConnection(Connection):
    """A connection that knows the trace id of the answer at hand."""

    trace_id = b""

    def _open(self, head: bytes) -> None:
        super()._open(head)
        found = _TRACE_ID.search(head)
        self.trace_id = found[1] if found else b""


async def read_on(asked: Reading, number: int, ids: int) -> None:
    """One client, until it is cancelled."""
    chance = random.Random(f"{asked.seed}-{number}")
    wanted = requests(stream=number % 2 == 0, sessions=SESSIONS, more={})
    connection: IdConnection | None = None
    while True:
        await asyncio.sleep(chance.expovariate(asked.rate / asked.clients))
        try:
            if connection is None or not connection.usable:
                connection = await _connected(asked.port)
            await asyncio.wait_for(_ask(connection, chance.choice(wanted), ids), ANSWER_WITHIN_S)
        except (OSError, TimeoutError):
            if connection is not None:
                connection.close()
                connection = None
            await asyncio.sleep(AGAIN_AFTER_S)


async def _connected(port: int) -> IdConnection:
    _, connection = await asyncio.get_running_loop().create_connection(IdConnection, "127.0.0.1", port)
    return connection


async def _ask(connection: IdConnection, request: bytes, ids: int) -> None:
    ended = asyncio.get_running_loop().create_future()

    def done(_: Connection, ok: bool) -> None:
        if ok:
            os.write(ids, connection.trace_id + b"\n")
        if not ended.done():
            ended.set_result(None)

    connection.send(request, done)
    await ended


async def read_all(asked: Reading) -> None:
    """All clients, until the process is killed."""
    ids = os.open(asked.ids, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    await asyncio.gather(*(read_on(asked, number, ids) for number in range(asked.clients)))


def main() -> None:
    """The process."""
    uvloop.run(read_all(msgspec.json.decode(sys.argv[1], type=Reading)))


if __name__ == "__main__":
    main()
