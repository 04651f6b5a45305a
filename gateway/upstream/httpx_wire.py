"""The wire under httpx, which can be listened to while a request's body is still being sent.

httpx reads nothing before it has sent everything. So a server that answers early (401, 413) would be heard
late, and if it closes then, not at all: what it said is lost once writing to it has failed.
"""

# ruff: noqa: ASYNC109 -- the timeouts are httpcore's interface
from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

from gateway.upstream.channel import MAX_HEAD_BYTES

_READ_BYTES = 64 * 1024
# 1xx, after which the answer is still to come. Not 101: it comes alone.
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d.*?\r?\n\r?\n", re.DOTALL)
_BEGINS_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)")
_STATUS_AT = len(b"HTTP/1.1 ")


class Wire(httpcore.AsyncNetworkBackend):
    """Makes the streams of one connection. *heard* is called for whatever its server says."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self.stream: WireStream | None = None  # the innermost: within TLS, behind a proxy
        self.heard = heard
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's own backend."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        self.stream = WireStream(stream, self)
        return self.stream


class WireStream(httpcore.AsyncNetworkStream):
    """Passes everything on, and from `listen` to the next read hears what its server says meanwhile.

    Once it has answered, writing raises httpcore's WriteError, upon which httpx reads the answer.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire
        self._hearing: asyncio.Task[None] | None = None
        self._ahead = b""  # heard and not read

    def listen(self, answered: Callable[[], None]) -> None:
        """Until the next read; *answered* is called when the server has begun its answer, or has closed."""

        def end(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                task.exception()  # the next read raises it
                answered()

        self._hearing = asyncio.get_running_loop().create_task(self._hear())
        self._hearing.add_done_callback(end)

    async def _hear(self) -> None:
        data = b"\n"
        while data and _may_be_interim(self._ahead):
            data = await self._receive(_READ_BYTES, None)
            self._ahead += data
            while (interim := _INTERIM.match(self._ahead)) is not None:
                self._ahead = self._ahead[interim.end() :]

    async def _receive(self, most: int, timeout: float | None) -> bytes:
        data = await self._stream.read(most, timeout)
        if data:
            self._wire.heard()
        return data

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, b"" at the end."""
        hearing, self._hearing = self._hearing, None
        if hearing is None:
            return await self._receive(max_bytes, timeout)
        await hearing
        data, self._ahead = self._ahead, b""
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Until it is on its way. Raises WriteError."""
        hearing = self._hearing
        if hearing is None:
            await self._stream.write(buffer, timeout)
            return
        writing = asyncio.get_running_loop().create_task(self._stream.write(buffer, timeout))
        try:
            await asyncio.wait({writing, hearing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not writing.done():
                writing.cancel()
        if not writing.done() or hearing.done():
            raise httpcore.WriteError("the server has answered, or closed")
        writing.result()

    async def aclose(self) -> None:
        """Close at once."""
        if self._hearing is not None:
            self._hearing.cancel()
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """The stream within."""
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        self._wire.stream = WireStream(stream, self._wire)
        return self._wire.stream

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _may_be_interim(said: bytes) -> bool:
    """Whether *said*, at the beginning of what a server says, leaves open that the answer has begun."""
    if len(said) <= _STATUS_AT:
        return b"HTTP/1.1 "[: len(said)] == said or b"HTTP/1.0 "[: len(said)] == said
    return _BEGINS_INTERIM.match(said) is not None and len(said) <= MAX_HEAD_BYTES
