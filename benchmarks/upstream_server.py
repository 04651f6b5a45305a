"""`python -m benchmarks.upstream_server --fd N --gap-ms 2`: streams the same answer to every request.

One thread, one Protocol, no HTTP library: what it costs, it costs every contender alike. A request that does
not ask for a stream gets the buffered answer; one that asks for usage gets it before `[DONE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
from typing import cast

import uvloop

from benchmarks.wire import ANSWER, CHUNKS, END, FINISH, OPENING, STREAM_HEAD, TOKEN, USAGE

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream":\s*true')
_COUNTED = re.compile(rb'"include_usage":\s*true')


class Upstream(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._left = 0
        self._end = FINISH + END

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        if length is None:
            whole = b"\r\ntransfer-encoding:" not in head.lower() or body.endswith(b"0\r\n\r\n")
        else:
            whole = len(body) >= int(length[1])
        if whole:
            self._received = b""
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if _STREAMED.search(body) is None:
            self._transport.write(JSON_HEAD + ANSWER)
            return
        self._end = FINISH + (USAGE if _COUNTED.search(body) else b"") + END
        self._left = CHUNKS
        self._transport.write(STREAM_HEAD + OPENING)
        self._loop.call_later(self._gap_s, self._send_next)

    def _send_next(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._transport.write(self._end)
            return
        self._left -= 1
        self._transport.write(TOKEN)
        self._loop.call_later(self._gap_s, self._send_next)


async def serve(listener: socket.socket, gap_s: float) -> None:
    """Answer on *listener* until cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(gap_s), sock=listener)
    await server.serve_forever()


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="listening socket")
    parser.add_argument("--gap-ms", type=float, required=True, help="between two chunks")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with socket.socket(fileno=options.fd) as listener:
        uvloop.run(serve(listener, options.gap_ms / 1000))


if __name__ == "__main__":
    main()
