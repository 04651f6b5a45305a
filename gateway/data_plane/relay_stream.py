"""Passes a stream of events on: nothing before the first content, nothing silently cut short (law 5)."""

from __future__ import annotations

from gateway.data_plane.attempt import Failure, OpenAttempt, Response, failure_of
from gateway.data_plane.call import answer_lines
from gateway.data_plane.exchange import SHUTDOWN, ShutdownError
from gateway.data_plane.refusals import reported
from gateway.traces.types import Outcome
from gateway.upstream.channel import Channel
from gateway.upstream.errors import DisconnectedError, UpstreamError

MAX_OPENING_BYTES = 1024 * 1024  # of what comes before the first content and is held back; more passes
FINISH_GRACE_S = 1.0  # for usage and the end mark once every answer has its finish reason

_REASONS = {
    "open": "no_finish_reason",
    "done": "no_finish_reason",
    "error": "error_in_200",
    "broken": "not_json",
    "too_large": "event_too_large",
}


class StreamRelay:
    """One stream of events: `open` until the client may have what came, then `deliver`."""

    def __init__(self, attempt: OpenAttempt, connection: Channel) -> None:
        call = attempt.call
        self._attempt = attempt
        self._leaves = attempt.pool.mask.leaves
        self._keep = attempt.kept.add
        self._connection = connection
        self._call = call
        self._trace = call.trace
        self._client = call.client_side
        self._status = connection.status
        self._watcher = call.endpoint.dialect.watch(call.view, hide_usage=call.adds_usage)
        timeouts = attempt.target.timeouts
        self._patience_s = {
            "work": max(timeouts.first_token_s, timeouts.idle_s),
            "text": timeouts.idle_s,
            "end": min(timeouts.idle_s, FINISH_GRACE_S),
        }
        self._unsent = b""  # before the first content, and at the end, what goes with the last write
        self._over = False
        self._error: UpstreamError | None = None
        self._stopped = False  # our own patience is over

    async def open(self) -> Failure | None:
        """Until the client may have what came, or the stream has ended without an answer to give."""
        watcher, connection = self._watcher, self._connection
        connection.arm("first_token", self._attempt.target.timeouts.first_token_s)
        try:
            while not (self._over or watcher.is_committed or len(self._unsent) > MAX_OPENING_BYTES):
                await connection.more()
                self._unsent += self._read(connection.take())
        except UpstreamError as error:
            self._error, self._over = error, True
        # An answer that began is an answer broken off, whether its end came in the same packet or later.
        if self._over and not self._is_success and (watcher.ending == "error" or not watcher.is_committed):
            return self._failure(self._reason)
        return None

    async def deliver(self) -> None:
        """Give the client what has come and what comes, and the end only when it is written down."""
        self._connection.on_expired = self._call.expire
        try:
            await self._pass_on()
        except UpstreamError as error:
            self._error = error
        except ShutdownError:
            self._stopped = True
        watcher = self._watcher
        if self._is_success:
            self._end("ok", watcher.held if watcher.ending == "done" else b"")
        elif watcher.ending == "error":
            self._end("upstream_error", watcher.held, self._reason)
        else:
            who = "The gateway stopped" if self._stopped else "The upstream's stream broke off"
            message = f"{who} ({self._reason}); the answer up to here is not whole."
            self._end("truncated", watcher.error_event(message, "stream_truncated"), self._reason)

    @property
    def _is_success(self) -> bool:
        return self._watcher.is_complete and self._watcher.ending != "error"

    @property
    def _reason(self) -> str:
        if self._stopped:
            return SHUTDOWN
        return self._error.reason if self._error is not None else _REASONS[self._watcher.ending]

    async def _pass_on(self) -> None:
        """Until the stream is over. Packets pass within the connection's callback while all goes well."""
        connection, client = self._connection, self._client
        if self._over:
            return
        opening, self._unsent = self._unsent, b""
        self._start()
        self._send(opening)
        while not self._over:
            if client.is_behind:
                connection.rest()
                await client.drain()
                connection.arm("idle", self._patience_s[self._watcher.awaits])
            await connection.pour(self._take)
            if connection.complete and not self._over:
                self._take(b"")

    def _take(self, data: bytes) -> bool:
        """A `Sink`: it is full when the stream is over, and while the client is behind."""
        passed = self._read(data)
        if self._over:
            self._unsent = passed
            return True
        self._send(passed)
        return self._client.is_behind

    def _send(self, passed: bytes) -> None:
        watcher = self._watcher
        if passed:
            if self._trace.ttft_s is None and watcher.has_content:
                self._trace.first_content()
            self._client.write(passed)
        self._connection.arm("idle", self._patience_s[watcher.awaits])

    def _read(self, data: bytes) -> bytes:
        """What of *data* may pass; `_over` when it was the last."""
        watcher = self._watcher
        is_last = self._connection.complete
        if self._attempt.held_back or not self._leaves(data):
            data = self._attempt.masked(data, last=is_last)
        self._keep(data)
        passed = watcher.feed(data)
        if watcher.ending != "open":
            self._over = True
        elif is_last:
            self._over = True
            passed += watcher.close()
        return passed

    def _start(self) -> None:
        self._trace.status = self._status
        lines = answer_lines(self._trace, self._connection.headers)
        self._client.start(self._status, lines, has_length=False)

    def _end(self, outcome: Outcome, tail: bytes, reason: str | None = None) -> None:
        """Write the trace down, then give the client the rest."""
        if self._watcher.has_content and self._trace.ttft_s is None:
            self._trace.first_content()
        if not self._client.started:
            self._start()
        self._attempt.end(self._status, reason)
        self._trace.finish(outcome, reason)
        self._client.end(self._unsent + tail)

    def _failure(self, reason: str) -> Failure:
        """Nothing has been sent: another attempt may answer, else an error of the upstream's own can."""
        if self._error is not None:
            return failure_of(self._error, headed=True)
        watcher = self._watcher
        if watcher.ending == "error":
            body = self._unsent + watcher.held
            headers = [header for header in self._connection.headers if header[0] != b"content-length"]
            return reported(Response(status=self._status, headers=headers, body=body), watcher.told)
        error = DisconnectedError(
            f"upstream {self._attempt.pool.name!r}: its stream ended before any answer ({reason})"
        )
        return Failure(reason=reason, may_retry=True, may_move=True, error=error)
