"""One try at one upstream server: its place, its connection, its deadlines, its line in the trace."""

from __future__ import annotations

import time

import msgspec

from gateway.data_plane.call import Call
from gateway.data_plane.capture import Kept
from gateway.data_plane.errors import Headers
from gateway.data_plane.plan import Target
from gateway.traces.types import Attempt
from gateway.upstream.channel import Channel
from gateway.upstream.errors import (
    ConnectError,
    DeadlineError,
    DisconnectedError,
    ProtocolError,
    UpstreamError,
)
from gateway.upstream.health import told, verdict
from gateway.upstream.pool import Server, UpstreamPool
from gateway.upstream.response_memo import KnownAnswer

OVERTAKEN = "overtaken"  # the reason of an attempt that lost its race


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A whole response of an upstream that the client has not been given. `known`: its head was."""

    status: int
    headers: Headers
    body: bytes
    known: KnownAnswer | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt gave no answer. The client has been sent nothing yet.

    `may_retry`: the same upstream may be asked again. `may_move`: a fallback may be asked, where it
    `needs_larger_context` only one that has it.
    """

    reason: str
    may_retry: bool
    may_move: bool
    error: UpstreamError | None = None
    response: Response | None = None
    retry_after_s: float | None = None
    needs_larger_context: bool = False


def failure_of(error: UpstreamError, *, headed: bool = False) -> Failure:
    """What may be done about *error*: the time that a deadline took is gone, so it moves on at once.

    What speaks no HTTP is not asked again. *headed*: it spoke it up to its answer's head, then broke off.
    """
    phase = error.phase if isinstance(error, DeadlineError) else None
    broke_off = isinstance(error, DisconnectedError) or (headed and isinstance(error, ProtocolError))
    may_retry = broke_off or isinstance(error, ConnectError) or phase == "connect"
    return Failure(reason=error.reason, may_retry=may_retry, may_move=phase != "total", error=error)


class OpenAttempt:
    """An attempt while it runs, and the owner of its connection.

    `end` gives back place and connection and writes the attempt's line; only the first call counts.
    """

    def __init__(self, call: Call, pool: UpstreamPool, target: Target, server: Server) -> None:
        self.call = call
        self.pool = pool
        self.target = target
        self.server = server
        self.total_at = call.trace.arrived + target.timeouts.total_s
        self.started = time.monotonic()
        self._ended = False
        self.held_back = b""  # of the answer: what a secret of ours may begin with
        self._connection: Channel | None = None
        self._machine = pool.machine
        self._entered = self._machine.enter(self.started) if self._machine is not None else 0.0
        server.outstanding += 1
        self._ticket = server.health.enter(self.started)
        trace = call.trace
        self.kept = trace.kept = Kept()  # what a former attempt sent was not the answer
        trace.upstream = target.upstream
        trace.model = target.model
        trace.price = pool.prices.of(target.model)

    def end(self, status: int | None, error: str | None = None) -> None:
        """It gave its answer, or failed for the reason *error*. What came in and was not taken is kept."""
        if self._ended:
            return
        self._ended = True
        now = time.monotonic()
        trace = self.call.trace
        connection = self._connection
        if connection is not None:
            if connection.buffered:
                self.kept.add(self.masked(connection.take(), last=connection.complete))
            if error is None or connection.complete:
                self.pool.release(self.server, connection)
            else:
                self.pool.discard(connection)
        self.server.outstanding -= 1
        ok = verdict(status, error)
        why = told(status, error) if ok is False else None
        self.server.health.leave(self._ticket, now, ok=ok, why=why)
        self.pool.leave()
        if error != OVERTAKEN:  # the time of the one that won is the same time
            trace.upstream_s += now - self.started
        if self._machine is not None:
            cost = self._machine.leave(self._entered, now)
            trace.machine_cost_usd = (trace.machine_cost_usd or 0.0) + cost
        trace.attempts.append(
            Attempt(
                upstream=self.pool.name,
                server=self.server.address.url,
                model=self.target.model,
                started_ms=(self.started - trace.arrived) * 1000,
                ended_ms=(now - trace.arrived) * 1000,
                status=status,
                error=error,
            )
        )
        if error is not None:
            trace.state.metrics.attempt_failed(self.pool.name, error)

    @property
    def status(self) -> int | None:
        """Of the response, once its head is there."""
        connection = self._connection
        return connection.status if connection is not None and connection.headed else None

    def opened(self) -> None:
        """The client can have the first byte."""
        self._ticket = self.server.health.opened(self._ticket, time.monotonic())

    def fail(self, failure: Failure) -> None:
        """It gave no answer. A server that asked to be left alone is, where another can be asked."""
        if failure.retry_after_s is not None and failure.reason == "status_429":
            self.server.health.rest(failure.retry_after_s, time.monotonic())
        self.end(self.status, failure.reason)

    def masked(self, data: bytes, *, last: bool) -> bytes:
        """What of the answer may go on now that *data* came, our secrets masked. *last*: it is whole."""
        mask = self.pool.mask
        if not self.held_back and mask.leaves(data):
            return data
        data = self.held_back + data
        self.held_back = b""
        if last:
            return mask.whole(data)
        passed, self.held_back = mask.piece(data)
        return passed

    async def ask(self) -> Channel:
        """Send the request and wait for the response's head.

        A kept-alive connection that the server had closed meanwhile, without a byte in answer, is replaced
        by a new one, once. Raises UpstreamError.
        """
        connection = self._connection = self.pool.reuse(self.server)
        if connection is not None:
            connection.waker = self.call.fiber.wake
            self._send(connection)
            try:
                await self.head_of(connection)
            except DisconnectedError:
                if connection.received:
                    raise
                self.pool.discard(connection)
            else:
                return connection
        connection = await self.open()
        self._send(connection)
        await self.head_of(connection)
        return connection

    async def open(self) -> Channel:
        """A connection of its own for a request that cannot be sent twice. Raises UpstreamError."""
        fiber = self.call.fiber
        connection = self._connection = await self.pool.connect(
            self.server, fiber, self.target.timeouts.connect_s, self.total_at
        )
        connection.waker = fiber.wake
        return connection

    def _send(self, connection: Channel) -> None:
        call = self.call
        body = call.body_for(self.target.model)
        head = b"".join(
            (
                self.pool.head.routed(
                    self.server.address, call.endpoint.upstream_path, self.target.model, call.query
                ),
                self.pool.head.filter(call.passed),
                b"content-length: %d\r\n\r\n" % len(body),
            )
        )
        connection.send(head, body, self.total_at)
        timeouts = self.target.timeouts
        if call.view.stream and timeouts.first_token_s < timeouts.headers_s:
            connection.arm("first_token", timeouts.first_token_s)
        else:
            connection.arm("headers", timeouts.headers_s)

    async def head_of(self, connection: Channel) -> None:
        """Until status and headers are there, our secrets masked in them. Raises UpstreamError."""
        await connection.head()
        headers = self.pool.mask.headers(connection.headers)
        if headers is not connection.headers:
            connection.headers, connection.known = headers, None
