"""A request as httpx takes it, made of the very bytes that our own client would write."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpcore
import httpx

Observer = Callable[[str, dict[str, Any]], Awaitable[None]]


def request_of(
    server: httpx.URL, head: bytes, body: httpx.AsyncByteStream, observe: Observer
) -> httpx.Request:
    """The request that *head* begins, its lines ended by CRLF, to *server*. httpx adds no header to it.

    *observe* is told of each step that httpx takes with it.
    """
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    fields = [line.partition(b": ") for line in lines if line]
    request = httpx.Request(
        method.decode("ascii"),
        server,
        headers=[(name, value) for name, _, value in fields],
        stream=body,
        extensions={"trace": observe},
    )
    request.url = _Target(server, target)
    return request


class _Target(httpx.URL):
    """A server's URL with a request line's target, of which httpx would write some bytes anew."""

    def __init__(self, server: httpx.URL, target: bytes) -> None:
        super().__init__(server)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target


class Outgoing(httpx.AsyncByteStream):
    """A request's body as it comes. *drained* is called when all that had come has been sent.

    After `stop` it breaks off with httpcore's WriteError.
    """

    def __init__(self, drained: Callable[[], None]) -> None:
        self._drained = drained
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._whole = False
        self._stopped = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> int:
        """Add a piece; the bytes that wait to be sent."""
        self._pieces.append(data)
        self._waiting += len(data)
        self._news.set()
        return self._waiting

    def end(self) -> None:
        """No piece is still to come."""
        self._whole = True
        self._news.set()

    def stop(self) -> None:
        """The server wants no more of it."""
        self._stopped = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces and not self._stopped:
                piece = self._pieces.popleft()
                yield piece  # until it is sent
                self._waiting -= len(piece)
            if self._stopped:
                raise httpcore.WriteError("the server has answered, or closed")
            self._drained()  # which may bring the rest
            if self._whole and not self._pieces:
                return
            await self._news.wait()
            self._news.clear()
