"""The client's connection: HTTP/1.1 in, requests to `/v1` to the data plane, all others to the control app.

uvicorn's protocol serves the control app. A request to `/v1` never becomes an ASGI scope: what uvicorn spends
on scope, task and messages is more than all that we do with it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.config.types import Listen
from gateway.data_plane import errors
from gateway.data_plane.client_side import ClientSide
from gateway.data_plane.errors import Headers
from gateway.data_plane.exchange import ClientGoneError, Exchange, ShutdownError
from gateway.data_plane.head_memo import MAX_MISSES, HeadMemo, memo_of
from gateway.head_template import HEAD_END
from gateway.upstream.deadlines import Sweeper

MAX_HEAD_BYTES = 64 * 1024  # request line and headers of one request
HOLD_S = 0.05  # that a known head is kept back for its body: many clients send the two in two packets
STOP_GRACE_S = 1.0  # when the worker stops, for a head that may be on its way
_NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class GatewayProtocol(HttpToolsProtocol):
    """One client's connection. Requests that are sent ahead of an answer (pipelined) wait for their turn.

    `begin` is called with each exchange to start its fiber, `unread` when what came is no request that one
    could be made of. A Sweeper watches `expires_at`: the deadline of a head, of a body that is awaited, or of
    an idle connection.
    """

    def __init__(
        self,
        begin: Callable[[Exchange], None],
        unread: Callable[[], None],
        sweeper: Sweeper,
        listen: Listen,
        **uvicorn: Any,
    ) -> None:
        super().__init__(**uvicorn)
        self._listen = listen
        self.expires_at = _NEVER
        self.lost = False
        self.write_paused = False  # the client reads more slowly than we write
        self._begin = begin
        self._note_unread = unread
        self._sweeper = sweeper
        self._target = b""
        self._head: Headers = []
        self._head_open = False
        self._head_bytes = 0  # that have come and are no body: of a head, of chunks' sizes, of trailers
        self._head_too_large = False
        self._asks_upgrade = False
        self._untouched = True  # nothing has come
        self._stopping = False  # what comes is the last
        self._deaf = False  # what follows cannot be read
        self._receiving: Exchange | None = None  # the one whose body is arriving
        self._running: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._packet = b""  # the last one, while it may be a whole request
        self._held = b""  # a known head whose body is still to come
        self._memo: HeadMemo | None = None
        self._memo_armed = False  # between two requests only
        self._remembered: Exchange | None = None  # the last one whose head the memo is of
        self._misses = 0

    # --- the exchange's side

    @property
    def body_s(self) -> float:
        """How long a body may take to arrive."""
        return self._listen.body_s

    def write(self, data: bytes) -> None:
        """Send *data* to the client; after it left, nowhere."""
        if not self.lost:
            self.transport.write(data)

    def go_on(self) -> None:
        """Tell a client that asked (`expect: 100-continue`) to send the body."""
        self.write(_CONTINUE)

    def await_body(self) -> None:
        """The running exchange needs more of its body, which has `listen.body_s` to come."""
        self.expires_at = time.monotonic() + self._listen.body_s
        if self.flow.read_paused:
            self.flow.resume_reading()

    def finish(self, exchange: Exchange) -> None:
        """The answer to *exchange* has gone out."""
        exchange.finished = True
        self._running = None
        self.server_state.total_requests += 1
        if not exchange.keep_alive:
            self.transport.close()
            return
        self._remember(exchange)
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._waiting:
            self.loop.call_soon(self._start_next)
        else:
            self.expires_at = time.monotonic() + self._listen.keep_alive_s

    def abort(self) -> None:
        """Break the connection off, so that the client cannot take what it has for a whole answer."""
        self.transport.abort()

    def cut_off(self) -> None:
        """The worker's patience is over: end what runs, and the connection."""
        if self._running is not None:
            self._running.fiber.throw(ShutdownError())
        self.transport.abort()

    def expire(self) -> None:
        """What `expires_at` was for has not come in time."""
        self.expires_at = _NEVER
        if self._held:
            self._let_go()
        elif self._head_open:
            self._refuse(
                408,
                f"The request's head did not arrive within {self._listen.head_s:g} seconds "
                "(listen.head_s of the gateway).",
            )
        elif self._receiving is not None and self._receiving is self._running:
            self._receiving.body_expired = True
            self._receiving.fiber.wake()
        elif self._is_control_busy and self.cycle.more_body:
            self._end_control_request()
        else:
            self.transport.close()

    # --- asyncio's side

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.expires_at = time.monotonic() + self._listen.head_s
        self._sweeper.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        self.lost = True
        super().connection_lost(exc)
        self._sweeper.forget(self)
        self._waiting.clear()
        self._remembered = None  # it refers back to us
        running, self._running = self._running, None
        if running is not None:
            running.finished = True
            running.fiber.throw(ClientGoneError())

    def eof_received(self) -> None:
        """The client sends no more, which is to leave: the connection is closed.

        One that only shuts its sending side down and waits looks like one that is gone, for which no upstream
        may work on. nginx and uvicorn take it so too, and no usual HTTP client does it.
        """

    def data_received(self, data: bytes) -> None:
        if self._memo_armed:
            if self._held:
                data, self._held = self._held + data, b""
            if self._begin_again(data):
                return
        self._read(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_paused = False
        if self._running is not None:
            self._running.fiber.wake()
        else:
            self._start_next()

    def shutdown(self) -> None:
        """The worker stops: close when what runs, or has begun to come, has been answered."""
        self._let_go()
        self._stopping = True
        for exchange in (self._running, *self._waiting):
            if exchange is not None:
                exchange.keep_alive = False
        if self._running is not None or self._waiting:
            return
        if self._head_open or self._untouched:
            self.expires_at = min(self.expires_at, time.monotonic() + STOP_GRACE_S)
        else:
            super().shutdown()

    # --- httptools' side

    def on_message_begin(self) -> None:
        self._memo_armed = False
        self._target = b""
        self._head = []
        self._head_open = True
        self._untouched = False
        self.expires_at = time.monotonic() + (STOP_GRACE_S if self._stopping else self._listen.head_s)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_open:
            self._head.append((name.lower(), value))
        # Else it is a trailer, and the head has been read without it: it names no key, no session, no length.

    def on_headers_complete(self) -> None:
        self._head_open = False
        self.expires_at = _NEVER
        self._head_bytes = 0
        if len(self._packet) > MAX_HEAD_BYTES:  # only then it can be too large and have come at once
            size = len(self._target) + sum(len(name) + len(value) for name, value in self._head)
            if size > MAX_HEAD_BYTES:
                self._head_too_large = True
                return
        self._asks_upgrade = self.parser.should_upgrade()
        if self._deaf or self._asks_upgrade:
            return
        if not _is_ours(self._target):
            self._hand_to_control()
            return
        version = self.parser.get_http_version()
        exchange = Exchange(
            self,
            self.parser.get_method(),
            self._target,
            self._head,
            keep_alive=not self._stopping and version != "1.0" and self.parser.should_keep_alive(),
            chunked=version == "1.1",
        )
        self._receiving = exchange
        self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self._receiving is not None:
            self._receiving.feed(body)
        elif self.cycle is not None and not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if self._asks_upgrade:
            return  # it is about to be read again
        if self._receiving is not None:
            exchange, self._receiving = self._receiving, None
            exchange.body_whole = True
            self._body_has_come(answered=exchange.finished)
        elif self.cycle is not None and not self._deaf:
            self._body_has_come(answered=self.cycle.response_complete)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The control app has answered."""
        super().on_response_complete()
        if self._waiting:
            self._unset_keepalive_if_required()
            self.loop.call_soon(self._start_next)

    # --- our own

    def _read(self, data: bytes) -> None:
        """Take in what the parser makes of *data*."""
        if self._deaf:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if not self._parse(data):
            return
        if self._head_too_large or self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"The request's headers exceed {MAX_HEAD_BYTES} bytes (MAX_HEAD_BYTES).")
            return
        if self._running is not None:
            self._receive()
        elif self._waiting:
            self._start_next()

    def _let_go(self) -> None:
        """Have the parser read a head that was kept back: its body does not come, or not with it."""
        data, self._held = self._held, b""
        if data:
            self._read(data)

    @property
    def _has_head_alone(self) -> bool:
        """Whether what came last is a request's head and nothing of its body."""
        receiving = self._receiving
        return receiving is not None and not receiving.length and self._packet.endswith(HEAD_END)

    def _body_has_come(self, *, answered: bool) -> None:
        # A request that was answered before its body had come leaves an idle connection only now.
        self.expires_at = time.monotonic() + self._listen.keep_alive_s if answered else _NEVER

    def _begin_again(self, data: bytes) -> bool:
        """Begin with the request in *data* if it is a whole one of a known head; keep such a head back."""
        memo, former = self._memo, self._remembered
        assert memo is not None
        assert former is not None, "a memo is of somebody"
        known = memo.read(data)
        if known is None:
            if memo.awaits_body(data):
                self._held = data
                self.expires_at = time.monotonic() + HOLD_S
                return True
            self._misses += 1
            return False
        exchange = Exchange(
            self,
            former.method,
            former.url,
            former.headers,
            keep_alive=not self._stopping,
            chunked=former.chunked,
        )
        exchange.known = former.known
        body, exchange.own, exchange.passed = known
        exchange.feed(body)
        exchange.body_whole = True
        self._misses = 0
        self._memo_armed = False
        self.expires_at = _NEVER
        self._running = exchange
        self._begin(exchange)
        return True

    def _remember(self, exchange: Exchange) -> None:
        """Know the head of *exchange* when it comes again, if nothing else has come since."""
        if exchange.known is None or self._head_open or self._receiving is not None or self._waiting:
            return
        former = self._remembered
        if former is None or former.headers is not exchange.headers:
            if self._misses >= MAX_MISSES:
                return
            self._memo = memo_of(self._packet, exchange.length, exchange.headers, self._memo)
        self._remembered = exchange
        self._memo_armed = self._memo is not None

    def _parse(self, data: bytes) -> bool:
        """Have the parser read *data*; False where it is no HTTP, which has been answered."""
        while True:
            self._packet = self._packet + data if self._has_head_alone else data
            self._head_bytes += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self._refuse(400, "What was sent is no HTTP request.")
                return False
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(400, "This is no proxy.")
                    return False
                data = self._without_upgrade(data[upgrade.args[0] :])
            else:
                return True

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The request whose head has just been read, and the *rest*, without the upgrade that it asks for.

        Nobody has to grant one (RFC 9110, 7.8), and some clients (Java's) ask for HTTP/2 with every request.
        But the parser takes what follows such a head for the other protocol, the body too.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self._make_parser()
        lines = [b"%s %s HTTP/%s\r\n" % (method, self._target, version)]
        lines += [b"%s: %s\r\n" % header for header in self._head if header[0] != b"upgrade"]
        return b"".join((*lines, b"\r\n", rest))

    def _make_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):  # as uvicorn makes it
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _refuse(self, status: int, message: str) -> None:
        """What has come is no request that we can read: answer so, after what is still to be answered."""
        self._deaf = True
        error = errors.unreadable(status, message)
        receiving = self._receiving
        if receiving is not None and receiving in self._waiting:
            self._waiting.remove(receiving)
        if receiving is not None and receiving.finished:
            self.transport.close()  # its answer has gone out, and another would be taken for the next one's
        elif receiving is not None and receiving is self._running:
            receiving.fiber.throw(error)
            return
        self._note_unread()
        if self._waiting or self._running is not None or self._is_control_busy:
            self._close_after_last()
            if self._running is not None:
                self._running.fiber.wake()  # the end of its body may have come before that
            self._start_next()
        elif not self.transport.is_closing():
            ClientSide(self._unread()).refuse(error, error.body())

    def _unread(self) -> Exchange:
        """Stands for a request of which too little was understood to have one of its own."""
        return Exchange(self, b"", b"", [], keep_alive=False, chunked=False)

    def _close_after_last(self) -> None:
        last = self._waiting[-1] if self._waiting else self._running or self.cycle
        if last is not None:
            last.keep_alive = False

    @property
    def _is_control_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _hand_to_control(self) -> None:
        """Replay the head to uvicorn, which runs the control app."""
        if self._running is not None or self._waiting or self._is_control_busy:
            # It was sent ahead of an answer. A client has to send again what a closed connection left open.
            self._deaf = True
            self._close_after_last()
            return
        super().on_message_begin()
        super().on_url(self._target)
        for name, value in self._head:
            super().on_header(name, value)
        super().on_headers_complete()
        self.cycle.keep_alive = self.cycle.keep_alive and not self._stopping
        self.expires_at = time.monotonic() + self._listen.body_s

    def _end_control_request(self) -> None:
        """Its body has not come in time: answer in place of the app, which learns that nobody is there."""
        cycle = self.cycle
        if not cycle.response_started:
            error = errors.body_timeout(self._listen.body_s)
            ClientSide(self._unread()).refuse(error, error.body())
        cycle.disconnected = True
        cycle.message_event.set()
        self.transport.close()

    def _start_next(self) -> None:
        """Begin with the exchange that waits longest, if nothing is in its way."""
        if self._running is not None or not self._waiting or self.write_paused or self.lost:
            return
        if self._is_control_busy:
            self.flow.pause_reading()
            return
        exchange = self._running = self._waiting.popleft()
        if self._waiting and not self.flow.read_paused:
            self.flow.pause_reading()
        self._begin(exchange)

    def _receive(self) -> None:
        """More of a running exchange's request has come, or its client has sent another one ahead."""
        running = self._running
        assert running is not None
        if self._waiting or running.is_ahead:
            self.flow.pause_reading()
        running.fiber.wake()


def _is_ours(target: bytes) -> bool:
    if not target.startswith(b"/"):  # a whole URL, as for a proxy
        try:
            target = httptools.parse_url(target).path or b""
        except httptools.HttpParserInvalidURLError:
            return False
    return target[:4] == b"/v1/" or target == b"/v1" or target[:4] == b"/v1?"
