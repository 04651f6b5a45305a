"""The client's end of a request: what is sent to it, and the news that it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.data_plane.errors import ApiError, Headers
from gateway.data_plane.protocol import SCOPE_KEY, GatewayProtocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientSide:
    """Answers one request. `gone`: the client left, and the task that was watching was cancelled for it."""

    __slots__ = ("_protocol", "_send", "_task", "gone", "started", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._protocol: GatewayProtocol | None = scope.get(SCOPE_KEY)
        self._send = send
        self._task: asyncio.Task[Any] | None = None
        self.started = False
        self.status = 0
        self.gone = False

    def watch(self) -> None:
        """From now on the current task is cancelled when the client leaves."""
        if self._protocol is None:
            return
        self._task = asyncio.current_task()
        self._protocol.on_gone = self._left
        if self._protocol.lost:
            self._left()

    def unwatch(self) -> None:
        if self._protocol is not None:
            self._protocol.on_gone = None

    def _left(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Returns once the transport takes more: a slow reader holds back whoever awaits this."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def answer(self, body: bytes) -> None:
        """Answer with JSON of ours."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.start(200, headers)
        await self.write(body, last=True)

    async def refuse(self, error: ApiError, body: bytes, own: Headers) -> None:
        """Answer with an error of ours and its *body*."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *error.headers,
            *own,
        ]
        await self.start(error.status, headers)
        await self.write(body, last=True)

    def abort(self) -> None:
        """Break the connection off, so that the client cannot take what it has for a whole answer."""
        if self._protocol is not None:
            self._protocol.transport.abort()
