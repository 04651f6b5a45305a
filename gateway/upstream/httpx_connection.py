"""One connection to one upstream server through httpx, for what our own HTTP/1.1 client does not speak.

HTTP/2, too, is spoken with one exchange at a time, on a connection of its own: httpx would share one among
many, and could then neither cancel one of them at the server nor hold back the server of a slow reader alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from gateway.upstream.channel import (
    HIGH_WATER_BYTES,
    NEVER,
    WITHOUT_BODY,
    Channel,
    is_events,
)
from gateway.upstream.errors import Phase
from gateway.upstream.httpx_errors import upstream_error
from gateway.upstream.httpx_request import Outgoing, request_of
from gateway.upstream.httpx_wire import Wire

_LISTENED_BYTES = 64 * 1024  # of a request's body: a smaller one is sent before its server could answer


class HttpxConnection(Channel):
    """See `Channel`. It owns *transport*, which must hold one connection at most and make it over `wire`.

    A task carries its exchanges and closes the transport when it ends. The first exchange makes the
    connection; until the request is on its way `connect_s` bounds the wait, whatever else is armed.
    None of httpx's own timeouts is set. In HTTP/2 an answer is noticed once the request has been sent, not
    before.
    """

    def __init__(
        self, upstream: str, server: str, transport: httpx.AsyncBaseTransport, connect_s: float
    ) -> None:
        super().__init__(upstream, server)
        self._url = httpx.URL(server)
        self._transport = transport
        self._connect_s = connect_s
        self._connected = False
        self._armed: tuple[Phase, float] | None = None  # holds once it is connected; None: the total alone
        self._request: httpx.Request | None = None  # that the task is to send
        self._outgoing: Outgoing | None = None
        self._left = -1  # bytes of the body that are still to come; below 0, where its length is not known
        self._news = asyncio.Event()  # for the task: a request, or room for more of a response
        self._task: asyncio.Task[None] | None = None
        self.wire = Wire(self._heard)
        self._is_http1 = False
        self._listens = False  # the body is so large that its server may answer before it is sent
        self._broken_off = False  # and it did

    # --- the caller's side

    def send(self, head: bytes, body: bytes, total_at: float) -> None:
        """Start an exchange; `total_at` (monotonic) bounds it whatever the phase."""
        self._outgoing = None
        self._listens = len(body) > _LISTENED_BYTES
        self._start(head, httpx.ByteStream(body), total_at)

    def begin(self, head: bytes, total_at: float, *, chunked: bool) -> None:
        """Start an exchange whose body follows. How it is framed httpx reads in *head*."""
        del chunked
        self._outgoing = Outgoing(self._drained)
        self._listens = True
        self._start(head, self._outgoing, total_at)

    def send_piece(self, data: bytes) -> None:
        """A part of the request's body, not empty. Send no more while `is_behind`."""
        assert self._outgoing is not None, "`begin` comes first"
        self.is_behind = self._outgoing.put(data) > HIGH_WATER_BYTES

    def sent(self) -> None:
        """The request is whole."""
        assert self._outgoing is not None, "`begin` comes first"
        self._outgoing.end()

    def arm(self, phase: Phase, seconds: float) -> None:
        """Deadline of what is awaited next, once the request is on its way."""
        if self._connected:
            super().arm(phase, seconds)
        else:
            self._armed = (phase, seconds)

    def rest(self) -> None:
        """Nothing is awaited from the server, once the request is on its way."""
        if self._connected:
            super().rest()
        else:
            self._armed = None

    def abort(self) -> None:
        """Close at once; the server notices."""
        self.closed = True
        self.expires_at = NEVER
        task = self._task
        # In the task itself, whose news woke whoever calls this, it is enough that it sees `closed`.
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()

    def _hold_back(self) -> None:
        """The task looks at `_paused` itself."""

    def _read_on(self) -> None:
        self._news.set()

    def _drained(self) -> None:
        if self.is_behind:
            self.is_behind = False
            self._wake()

    def _start(self, head: bytes, body: httpx.AsyncByteStream, total_at: float) -> None:
        if self.served:
            self._reset()
        self.total_at = total_at
        self._connected = False
        self._broken_off = False
        self._armed = None
        super().arm("connect", self._connect_s)
        self._request = request_of(self._url, head, body, self._observe)
        self._news.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._live())

    # --- the task's side

    async def _live(self) -> None:
        try:
            while not self.closed:
                await self._news.wait()
                self._news.clear()
                request, self._request = self._request, None
                if request is not None:
                    await self._exchange(request)
        except Exception as error:  # noqa: BLE001 -- what is no UpstreamError is a bug, and its fiber's to raise
            self._fail(upstream_error(error, self.upstream, self.server, connected=self._connected) or error)
        finally:
            await self._close()

    async def _exchange(self, request: httpx.Request) -> None:
        response = await self._transport.handle_async_request(request)
        try:
            self._receive_head(response)
            last = b""
            async for piece in response.aiter_raw():
                if self.closed:
                    return
                self._left -= len(piece)
                if self._left == 0:
                    # httpx tells of the end apart: a client that has it all would leave before it came.
                    last = piece
                    continue
                self._receive(piece)
                while self._paused and not self.closed:
                    await self._news.wait()
                    self._news.clear()
        finally:
            await response.aclose()
        if not self.closed:
            self.reusable = self.reusable and not _has_surplus(self._transport)
            self._finish_with(last)

    def _receive_head(self, response: httpx.Response) -> None:
        self.received = True
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        if self._has_large_head():
            raise self._too_many_headers()
        fields = dict(self.headers)
        if b"transfer-encoding" in fields and b"content-length" in fields:
            raise self._violation("framed its response twice, by a length and by chunks")
        encoding = fields.get(b"transfer-encoding", b"").strip().lower()
        self.status = response.status_code
        self.is_events = is_events(fields.get(b"content-type", b""))
        self.framed = (
            response.extensions["http_version"] == b"HTTP/2"
            or self.status in WITHOUT_BODY
            or b"content-length" in fields
            or encoding.endswith(b"chunked")
        )
        length = fields.get(b"content-length", b"")
        self._left = int(length) if length.isdigit() else -1
        # The end of a large request that was refused may lie in a buffer.
        rest_unsure = self._broken_off or (self._listens and self.status >= 400)
        closes = fields.get(b"connection", b"").lower() == b"close"
        self.reusable = self.framed and not rest_unsure and not closes
        self.headed = True
        self._wake()

    def _receive(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.buffered += len(piece)
        self._offer()

    def _finish_with(self, last: bytes) -> None:
        if last:
            self._pieces.append(last)
            self.buffered += len(last)
        self._finish()
        self._offer()

    async def _observe(self, event: str, info: dict[str, Any]) -> None:
        """Told by httpx of every step it takes."""
        step = event.partition(".")[2]
        if step == "send_request_body.failed":
            self._broken_off = True
        elif "request" not in info or info["request"].method == b"CONNECT":
            return
        elif step == "send_request_body.started" and self._is_http1 and self._listens:
            assert self.wire.stream is not None, "it is connected"
            self.wire.stream.listen(self._answered)
        elif step == "send_request_headers.started":
            self._connected = True
            self._is_http1 = event.startswith("http11.")
            if self._armed is None:
                super().rest()
            else:
                super().arm(*self._armed)

    def _heard(self) -> None:
        # What an HTTP/2 server says may concern the connection alone.
        self.received = self.received or (self._connected and self._is_http1)

    def _answered(self) -> None:
        if self._outgoing is not None:
            self._outgoing.stop()

    async def _close(self) -> None:
        self.closed = True
        try:
            await self._transport.aclose()
        finally:
            # A connection that is broken off within its TLS handshake is known to no transport yet.
            if self.wire.stream is not None:
                await self.wire.stream.aclose()
            self._task = None  # it refers back to us
            if self.on_lost is not None:
                self.on_lost(self)


def _has_surplus(transport: httpx.AsyncBaseTransport) -> bool:
    """Whether *transport* has read more than the answers to its requests: it would take it for the next one.

    httpx tells nobody, so this looks at its insides. Where they are not what they were, it says True, and no
    connection is used twice.
    """
    pool = getattr(transport, "_pool", None)
    for connection in getattr(pool, "connections", ()):
        while hasattr(connection, "_connection"):  # of a proxy, of what chooses the protocol
            connection = connection._connection  # noqa: PLW2901, SLF001 -- there is no public way in
        if hasattr(connection, "_h2_state"):
            continue  # whose streams have numbers
        http11 = getattr(connection, "_h11_state", None)
        if http11 is None or http11.trailing_data[0]:
            return True
    return pool is None
