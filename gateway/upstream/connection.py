"""One HTTP/1.1 connection to one upstream server: one exchange at a time, bounded, with flow control."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from gateway.fiber import SUSPEND
from gateway.upstream.errors import (
    DeadlineError,
    DisconnectedError,
    Phase,
    ProtocolError,
    UpstreamError,
)

MAX_HEAD_BYTES = 64 * 1024  # status line and headers of one response
HIGH_WATER_BYTES = 256 * 1024  # of body that nobody has taken yet: reading pauses
_NEVER = float("inf")
_JOINED_BYTES = 64 * 1024  # a larger body is not copied to be sent in one piece


class Connection(asyncio.Protocol):
    """Sends one request, then offers its response as it comes in.

    `send`, then `head`, then `body` or repeated `more` and `take`, until `complete`. Whatever goes wrong is
    raised by the wait that is pending or by the next one, as an UpstreamError. A Sweeper watches it:
    `expires_at` is the nearer of the phase's deadline and the request's.
    """

    def __init__(self, upstream: str, server: str) -> None:
        self.upstream = upstream
        self.server = server
        self.expires_at = _NEVER
        self.total_at = _NEVER
        self.closed = False
        self.is_behind = False  # the server takes a request's body more slowly than it comes
        self.served = 0  # exchanges completed: above 0, the server may have closed it meanwhile
        self.waker: Callable[[], None] | None = None  # called with all news while somebody uses it
        self.on_complete: Callable[[Connection], None] | None = None
        self.on_lost: Callable[[Connection], None] | None = None
        self.on_expired: Callable[[], None] | None = None  # told when a deadline passes and nobody waits
        self._phase: Phase = "connect"
        self._patience_s = 0.0
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set before it is used
        self._parser: httptools.HttpResponseParser | None = None
        self._awaited = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.headed = False
        self.is_events = False  # a stream of server-sent events
        self.complete = False
        self.received = False  # any byte of a response: a request that got one is not sent again unseen
        self.reusable = False
        self.error: UpstreamError | None = None
        self.buffered = 0
        self._pieces: list[bytes] = []
        self._wanted = 0
        self._sink: Callable[[bytes], None] | None = None
        self._is_held_up: Callable[[], bool] = bool
        self._head_bytes = 0
        self.framed = False  # the body's end is told by a length or by chunks, not by the connection's end
        self._paused = False
        self._sending = False  # pieces of the request are still to come

    # --- the caller's side

    def send(self, head: bytes, body: bytes, total_at: float) -> None:
        """Start an exchange; `total_at` (monotonic) bounds it whatever the phase."""
        if self.served:
            self._reset()
        self.total_at = total_at
        if len(body) > _JOINED_BYTES:
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)

    def begin(self, head: bytes, total_at: float) -> None:
        """Start an exchange whose body follows: `send_piece` for each, then `sent`."""
        if self.served:
            self._reset()
        self._sending = True
        self.total_at = total_at
        self._transport.write(head)

    def send_piece(self, data: bytes) -> None:
        """A part of the request's body. Send no more while `is_behind`."""
        self._transport.write(data)

    def sent(self) -> None:
        """The request is whole."""
        self._sending = False

    def check(self) -> None:
        """Raise the UpstreamError that has happened, if one has."""
        if self.error is not None:
            raise self.error

    def arm(self, phase: Phase, seconds: float) -> None:
        """Deadline of what is awaited next."""
        self._patience_s = seconds
        at = time.monotonic() + seconds
        if at < self.total_at:
            self._phase, self.expires_at = phase, at
        else:
            self._phase, self.expires_at = "total", self.total_at

    def rest(self) -> None:
        """Nothing is awaited from the server: the client is slow, say. Only the total deadline holds."""
        self._phase, self.expires_at = "total", self.total_at

    async def head(self) -> None:
        """Until status and headers are there."""
        self._wanted = 0
        self._awaited = True
        try:
            while not self.headed:
                self.check()
                await SUSPEND
        finally:
            self._awaited = False
        self.check()

    async def body(self, most: int) -> None:
        """Until the body is whole, or *most* bytes of it are there."""
        self._wanted = most
        self._awaited = True
        try:
            while not self.complete and self.buffered < most:
                self.check()
                await SUSPEND
        finally:
            self._awaited = False

    async def more(self) -> None:
        """Until there is something to take, or the body is whole."""
        self._wanted = 1
        self._awaited = True
        try:
            while not self._pieces and not self.complete:
                self.check()
                await SUSPEND
        finally:
            self._awaited = False

    async def pour(self, sink: Callable[[bytes], None], is_held_up: Callable[[], bool]) -> None:
        """Hand the body to *sink* as it comes in, until it is whole or *is_held_up* says so.

        What came before is handed over first. *sink* is called where the bytes arrive: it must be quick.
        """
        if self._pieces:
            sink(self.take())
        self._sink, self._is_held_up = sink, is_held_up
        self._awaited = True
        try:
            while not (self.complete or is_held_up()):
                self.check()
                await SUSPEND
        finally:
            self._sink = None
            self._awaited = False

    def take(self) -> bytes:
        """What came in since the last call; reading goes on if it had paused."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self.buffered = 0
        if self._paused:
            self._paused = False
            if not self.closed:
                self._transport.resume_reading()
        return data

    def abort(self) -> None:
        """Close at once; the server notices."""
        self.closed = True
        self.expires_at = _NEVER
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """A deadline passed: the pending wait fails, or `on_expired` is told."""
        self.expires_at = _NEVER
        awaited = self._awaited
        self._fail(DeadlineError(self._phase, self.upstream))
        if not awaited and self.on_expired is not None:
            self.on_expired()

    def _wake(self) -> None:
        if self.waker is not None:
            self.waker()

    def _fail(self, error: UpstreamError) -> None:
        if self.error is None and not self.complete:
            self.error = error
        self.closed = True
        self._transport.abort()
        self._wake()

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._parser = None  # it refers back to us
        if self.on_lost is not None:
            self.on_lost(self)
        if self.complete:
            return
        if self.headed and not self.framed and exc is None:
            self._finish()  # the body's end is the connection's end
        elif self.error is None:
            self.error = DisconnectedError(
                f"upstream {self.upstream!r} at {self.server} closed the connection "
                + ("before its response was whole" if self.received else "without an answer")
            )
        self._wake()

    def pause_writing(self) -> None:
        self.is_behind = True

    def resume_writing(self) -> None:
        self.is_behind = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self.complete or self._parser is None:
            self.abort()  # nothing was asked
            return
        self.received = True
        if not self.headed:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                self._fail(self._violation(f"sent what is not HTTP/1.1: {error}"))
            return
        if self._sink is not None:
            if self._pieces:
                self._sink(self.take())
            if self.complete or self._is_held_up():
                self._wake()
        elif self.headed:
            self._offer()
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._fail(self._violation(f"sent more than {MAX_HEAD_BYTES} bytes of headers (MAX_HEAD_BYTES)"))

    def _offer(self) -> None:
        """Tell of a body that comes in, and hold it back where nobody takes it."""
        if self.complete or self.buffered >= self._wanted:
            self._wake()
        elif self._phase == "idle":
            self.arm("idle", self._patience_s)  # a body that is waited for as a whole is coming on
        if self.buffered > max(HIGH_WATER_BYTES, self._wanted) and not self.complete:
            self._paused = True
            self._transport.pause_reading()

    # --- httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            self.closed = True  # a second answer in the packet of the first: it is used no more
        else:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
            self.closed = True
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return  # 1xx: the answer is still to come
        self.headed = True
        for name, value in self.headers:
            if name == b"content-length":
                self.framed = True
            elif name == b"content-type":
                self.is_events = value.startswith(b"text/event-stream")
            elif name == b"transfer-encoding" and value.strip().lower().endswith(b"chunked"):
                self.framed = True

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._pieces.append(body)
            self.buffered += len(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
            return
        if not self.headed:
            self.headers = []
            self._head_bytes = 0
            return
        # An answer before we have sent all of our question leaves the rest of it in the way of the next one.
        whole = not self._sending and self._transport.get_write_buffer_size() == 0
        self.reusable = whole and self._parser.should_keep_alive()
        self._finish()

    def _finish(self) -> None:
        self.complete = True
        self.served += 1
        if self.on_complete is not None:
            self.on_complete(self)

    def _violation(self, what: str) -> ProtocolError:
        return ProtocolError(f"upstream {self.upstream!r} at {self.server} {what}")
