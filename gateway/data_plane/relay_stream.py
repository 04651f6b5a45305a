"""Passes a stream of events on: nothing before the first content, nothing silently cut short (law 5)."""

from __future__ import annotations

from gateway.data_plane.attempt import Failure, OpenAttempt, Response, failure_of
from gateway.data_plane.call import own_headers
from gateway.data_plane.headers import downstream
from gateway.traces.types import Outcome
from gateway.upstream.connection import Connection
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


async def relay_stream(attempt: OpenAttempt, connection: Connection) -> Failure | None:
    """Relay the events that follow the head in *connection*. None: the client has been answered."""
    return await _StreamRelay(attempt, connection).run()


class _StreamRelay:
    def __init__(self, attempt: OpenAttempt, connection: Connection) -> None:
        call = attempt.call
        self._attempt = attempt
        self._connection = connection
        self._call = call
        self._trace = call.trace
        self._client = call.client_side
        self._status = connection.status
        self._watcher = call.endpoint.dialect.watch(call.view, hide_usage=call.adds_usage)
        self._unsent = b""  # before the first content, and at the end, what goes with the last write
        self._error: UpstreamError | None = None
        connection.on_expired = call.expire

    async def run(self) -> Failure | None:
        try:
            await self._pass_on()
        except UpstreamError as error:
            self._error = error
        watcher = self._watcher
        if watcher.is_complete and watcher.ending != "error":
            self._end("ok", watcher.held if watcher.ending == "done" else b"")
            return None
        reason = self._error.reason if self._error is not None else _REASONS[watcher.ending]
        # An answer that began is an answer broken off, whether its end came in the same packet or later.
        if not self._client.started and (watcher.ending == "error" or not watcher.is_committed):
            return self._failure(reason)
        if watcher.ending == "error":
            self._end("upstream_error", watcher.held, reason)
        else:
            message = f"The upstream's stream broke off ({reason}); the answer up to here is not whole."
            self._end("truncated", watcher.error_event(message, "stream_truncated"), reason)
        return None

    async def _pass_on(self) -> None:
        """Until the stream ends, one way or another."""
        connection, watcher, trace, client = self._connection, self._watcher, self._trace, self._client
        timeouts = self._attempt.pool.upstream.timeouts
        patience_s = {
            "work": max(timeouts.first_token_s, timeouts.idle_s),
            "text": timeouts.idle_s,
            "end": min(timeouts.idle_s, FINISH_GRACE_S),
        }
        holds_back = is_silent = True
        connection.arm("first_token", timeouts.first_token_s)
        while True:
            await connection.more()
            data = connection.take()
            trace.keep(data)
            passed = watcher.feed(data)
            if watcher.ending != "open" or connection.complete:
                if watcher.ending == "open":
                    passed += watcher.close()
                self._unsent += passed
                return
            if holds_back:
                self._unsent += passed
                if not watcher.is_committed and len(self._unsent) <= MAX_OPENING_BYTES:
                    continue
                holds_back = False
                passed, self._unsent = self._unsent, b""
                self._start()
            if passed:
                if is_silent and watcher.has_content:
                    is_silent = False
                    trace.first_content()
                connection.rest()
                if client.is_behind:
                    await client.drain()
                client.write(passed)
            connection.arm("idle", patience_s[watcher.awaits])

    def _start(self) -> None:
        self._trace.status = self._status
        headers = downstream(self._connection.headers, own_headers(self._trace), keep_length=False)
        self._client.start(self._status, headers)

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
            return failure_of(self._error)
        watcher = self._watcher
        response = None
        if watcher.ending == "error":
            body = self._unsent + watcher.held
            headers = [header for header in self._connection.headers if header[0] != b"content-length"]
            response = Response(status=self._status, headers=headers, body=body)
        error = DisconnectedError(
            f"upstream {self._attempt.pool.name!r}: its stream ended before any answer ({reason})"
        )
        return Failure(reason=reason, may_retry=True, may_move=True, error=error, response=response)
