"""The client's end of a request: what is written to it, and the news that it has left.

Writes to the transport itself: uvicorn's ASGI messages cost more than all that we do with a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.data_plane.errors import ApiError, Headers
from gateway.data_plane.protocol import SCOPE_KEY, GatewayProtocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_WITHOUT_BODY = frozenset({204, 304})


class ClientSide:
    """Answers one request on its client's connection. `gone`: it left, and the watching task was cancelled.

    Built from a scope and `send` of GatewayProtocol; no other server will do.
    """

    __slots__ = ("_chunked", "_cycle", "_protocol", "_task", "gone", "started", "status")

    def __init__(self, scope: Scope, send: Any) -> None:
        self._protocol: GatewayProtocol = scope[SCOPE_KEY]
        self._cycle: RequestResponseCycle = send.__self__
        self._task: asyncio.Task[Any] | None = None
        # A client of HTTP/1.0 knows no chunks: for it the body ends where the connection does.
        self._chunked = scope["http_version"] == "1.1"
        self.started = False
        self.status = 0
        self.gone = False

    @property
    def body(self) -> bytes | None:
        """The request's body, None while it is still on its way."""
        return None if self._cycle.more_body else bytes(self._cycle.body)

    def watch(self) -> None:
        """From now on the current task is cancelled when the client leaves."""
        self._task = asyncio.current_task()
        self._protocol.on_gone = self._left
        if self._protocol.lost:
            self._left()

    def unwatch(self) -> None:
        self._protocol.on_gone = None

    def _left(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer. *headers* may hold its content-length."""
        cycle = self._cycle
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        lines, has_length = self._head(status, headers)
        if not has_length and status not in _WITHOUT_BODY:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        if status not in _WITHOUT_BODY and cycle.scope["method"] != "HEAD":
            lines.append(body)
        cycle.transport.write(b"".join(lines))
        self._complete()

    async def start(self, status: int, headers: Headers) -> None:
        """The head of an answer that comes in pieces; without a content-length among *headers*, in chunks."""
        cycle = self._cycle
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        lines, has_length = self._head(status, headers)
        if has_length:
            self._chunked = False
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            cycle.keep_alive = False
        lines.append(b"\r\n")
        if not cycle.disconnected:
            cycle.transport.write(b"".join(lines))

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """A piece. Returns once the transport takes more: a slow reader holds back whoever awaits this."""
        cycle = self._cycle
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            cycle.transport.write(framed + b"0\r\n\r\n" if last else framed)
        elif data:
            cycle.transport.write(data)
        if last:
            self._complete()

    async def answer_json(self, body: bytes) -> None:
        """200 with JSON of ours."""
        await self.answer(200, [_JSON], body)

    async def refuse(self, error: ApiError, body: bytes, own: Headers) -> None:
        """An error of ours with its *body*."""
        await self.answer(error.status, [_JSON, *error.headers, *own], body)

    def abort(self) -> None:
        """Break the connection off, so that the client cannot take what it has for a whole answer."""
        self._protocol.transport.abort()

    def _head(self, status: int, headers: Headers) -> tuple[list[bytes], bool]:
        """The lines of the head so far, and whether *headers* has a content-length."""
        self.started = True
        self.status = status
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        lines = [STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status]
        has_length = False
        for name, value in headers:
            if name == b"content-length":
                has_length = True
            if name == b"connection":
                cycle.keep_alive = False  # only our own errors say so, and they mean close
            else:
                lines += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        return lines, has_length

    def _complete(self) -> None:
        """What uvicorn does when a response has gone out."""
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
