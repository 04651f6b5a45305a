"""One HTTP/1.1 connection to one upstream server, on asyncio and httptools: the native transport."""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from gateway.upstream.channel import MAX_HEAD_BYTES, NEVER, WITHOUT_BODY, Channel, is_events
from gateway.upstream.errors import DisconnectedError
from gateway.upstream.response_memo import KnownAnswer, ResponseHeads

_OK = 200
_JOINED_BYTES = 64 * 1024  # a larger body is not copied to be sent in one piece


class Connection(Channel, asyncio.Protocol):
    """See `Channel`. The pool makes the connection; what it brings arrives in `data_received`."""

    def __init__(self, upstream: str, server: str, heads: ResponseHeads) -> None:
        super().__init__(upstream, server)
        self._heads = heads
        self._packet = b""  # the first of an answer, while it may be all of it
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set before it is used
        self._parser: httptools.HttpResponseParser | None = None
        self._head_bytes = 0  # that have come and are no body: of heads, of chunks' sizes, of trailers
        self._chunked = False  # the request's pieces are sent as chunks
        self._is_large = False  # the request: more than is sent at once
        self._is_tls = False

    # --- the caller's side

    def send(self, head: bytes, body: bytes, total_at: float) -> None:
        """Write the request; `total_at` (monotonic) bounds the exchange whatever the phase."""
        if self.served:
            self._reset()
            self._head_bytes = 0
        self.total_at = total_at
        self._is_large = len(body) > _JOINED_BYTES
        if self._is_large:
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)

    def begin(self, head: bytes, total_at: float, *, chunked: bool) -> None:
        """Start an exchange whose body follows: `send_piece` for each, then `sent`."""
        self._chunked = chunked
        self.send(head, b"", total_at)
        self._sending = self._is_large = True

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
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        self._parser = httptools.HttpResponseParser(self)
        # What servers do that write HTTP by hand. Neither leaves in doubt where a message ends.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

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
        if self.received:
            self._packet = b""
        else:
            self.received = True
            known = self._heads.read(data)
            if known is not None:
                self._take_known(*known)
                return
            self._packet = data
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                self._fail(self._violation(f"sent what is not HTTP/1.1: {error}"))
                return
            self.abort()  # it came behind the answer
        if self.error is not None or (self._head_bytes > MAX_HEAD_BYTES and not self.complete):
            self._fail(self._too_many_headers())
        elif self.headed:
            self._offer()

    def _take_known(self, known: KnownAnswer, body: bytes) -> None:
        """A whole answer, whose head has been parsed before."""
        self.known = known
        self.status = _OK
        self.headers = known.memo.headers(known.values)
        self.headed = self.framed = True
        self._pieces.append(body)
        self.buffered = len(body)
        self.reusable = self._has_sent
        self._finish()
        self._wake()

    @property
    def _has_sent(self) -> bool:
        """All of the question: what is left of it would be in the way of the next one."""
        return not self._sending and self._transport.get_write_buffer_size() == 0

    # --- httptools' side

    def on_message_begin(self) -> None:
        if self.complete:
            self.abort()  # a second answer in the packet of the first: nothing was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:  # else it is a trailer, which says nothing that a head may say
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return  # 1xx: the answer is still to come
        self.headed = True
        if self._head_bytes > MAX_HEAD_BYTES and self._has_large_head():
            self.error = self._too_many_headers()  # it came at once, perhaps with the whole body behind it
        self.framed = self.status in WITHOUT_BODY
        for name, value in self.headers:
            if name == b"content-length":
                self.framed = True
            elif name == b"content-type":
                self.is_events = is_events(value)
            elif name == b"transfer-encoding" and value.strip().lower().endswith(b"chunked"):
                self.framed = True

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._head_bytes = 0
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
        keeps_alive = self._parser.should_keep_alive()
        # What TLS has encrypted is in no count: the end of a large request that was refused may lie there.
        unsure = self._is_tls and self._is_large and self.status >= 400
        self.reusable = keeps_alive and self._has_sent and not unsure and self.error is None
        if self._packet and self.reusable and self.status == _OK and not self.is_events:
            self._heads.learn(self._packet, self.headers, self.buffered)
        self._finish()
