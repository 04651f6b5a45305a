"""One HTTP/1.1 connection to one upstream server, on asyncio and httptools: the native transport."""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from gateway.upstream.channel import MAX_HEAD_BYTES, NEVER, Channel
from gateway.upstream.errors import DisconnectedError

_JOINED_BYTES = 64 * 1024  # a larger body is not copied to be sent in one piece


class Connection(Channel, asyncio.Protocol):
    """See `Channel`. The pool makes the connection; what it brings arrives in `data_received`."""

    def __init__(self, upstream: str, server: str) -> None:
        super().__init__(upstream, server)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set before it is used
        self._parser: httptools.HttpResponseParser | None = None
        self._head_bytes = 0
        self._chunked = False  # the request's pieces are sent as chunks
        self._surplus = False  # something follows the answer in its packet

    # --- the caller's side

    def send(self, head: bytes, body: bytes, total_at: float) -> None:
        """Write the request; `total_at` (monotonic) bounds the exchange whatever the phase."""
        if self.served:
            self._reset()
            self._head_bytes = 0
        self.total_at = total_at
        if len(body) > _JOINED_BYTES:
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)

    def begin(self, head: bytes, total_at: float, *, chunked: bool) -> None:
        """Start an exchange whose body follows: `send_piece` for each, then `sent`."""
        self._chunked = chunked
        self.send(head, b"", total_at)
        self._sending = True

    def send_piece(self, data: bytes) -> None:
        """A part of the request's body, not empty. Send no more while `is_behind`."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def sent(self) -> None:
        """The request is whole."""
        self._sending = False
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Close at once; the server notices."""
        self.closed = True
        self.expires_at = NEVER
        if self._transport is not None:
            self._transport.abort()

    def _hold_back(self) -> None:
        self._transport.pause_reading()

    def _read_on(self) -> None:
        self._transport.resume_reading()

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
            self._surplus = True
        if self._surplus:
            self.abort()  # the answer stands, but the connection is used no more
        if self.headed:
            self._offer()
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._fail(self._violation(f"sent more than {MAX_HEAD_BYTES} bytes of headers (MAX_HEAD_BYTES)"))

    # --- httptools' side

    def on_message_begin(self) -> None:
        self._surplus = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
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
