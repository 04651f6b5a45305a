"""A client's connection as cheap as it can be: one request at a time, no HTTP library."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_TEXT = re.compile(rb'"content":\s*"[^"]')
_LAST_CHUNK = b"0\r\n\r\n"

Done = Callable[["Connection", bool], None]


class Connection(asyncio.Protocol):
    """Sends a request and calls back once its answer has ended, and says whether it was whole and a success.

    `first_at` is when the first text of the answer came, on `time.monotonic`'s clock (0.0: none so far). The
    chunk that opens a stream has none: a gateway may hold it back while it can still ask another upstream.
    `refusal` is the first line of the last answer that was no success.
    """

    def __init__(self) -> None:
        self.first_at = 0.0
        self.refusal = ""
        self._done: Done | None = None
        self._received = b""
        self._before_text = b""
        self._left: int | None = None  # of the body, where its length is known
        self._in_body = False
        self._ok = False
        self._transport: asyncio.WriteTransport | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own class

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- why does not matter
        self._transport = None
        self._finish(whole=False)

    def send(self, request: bytes, done: Done) -> None:
        """One request. The connection must be usable and without another in flight."""
        assert self._transport is not None
        assert self._done is None
        self._done = done
        self._received, self._in_body, self._left, self._ok = b"", False, None, False
        self._transport.write(request)

    def close(self) -> None:
        """Give up what is in flight without a word, and close."""
        self._done = None
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            return
        if not self._in_body:
            self._received += data
            head, found, data = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            self._open(head)
        if not data:
            if self._left == 0:
                self._finish(whole=True)
            return
        if self.first_at == 0.0:
            self._look_for_text(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._finish(whole=True)
            return
        self._received = (self._received + data)[-len(_LAST_CHUNK) :]
        if self._received == _LAST_CHUNK:
            self._finish(whole=True)

    def _open(self, head: bytes) -> None:
        """Read the head: is it a success, and how does its body end?"""
        self._in_body = True
        self._received = self._before_text = b""
        self.first_at = 0.0
        self._ok = head.startswith(b"HTTP/1.1 200")
        if not self._ok:
            self.refusal = head.partition(b"\r\n")[0].decode("latin-1")
        length = _LENGTH.search(head)
        if length is not None:
            self._left = int(length[1])
        else:
            self._ok = self._ok and _CHUNKED.search(head) is not None

    def _look_for_text(self, data: bytes) -> None:
        self._before_text += data
        if _TEXT.search(self._before_text):
            self.first_at = time.monotonic()
            self._before_text = b""

    def _finish(self, *, whole: bool) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, whole and self._ok)


async def connect(port: int) -> Connection:
    """A new connection to *port* on loopback. Raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection
