"""Passes a stream of events on: nothing before the first content, nothing silently cut short (law 5)."""

from __future__ import annotations

from gateway.data_plane.attempt import Failure, OpenAttempt, Response, failure_of
from gateway.data_plane.call import own_headers
from gateway.data_plane.errors import error_body
from gateway.data_plane.headers import downstream
from gateway.data_plane.sse import StreamWatcher
from gateway.traces.types import Outcome
from gateway.upstream.connection import Connection
from gateway.upstream.errors import DisconnectedError, ProtocolError, UpstreamError

MAX_OPENING_BYTES = 1024 * 1024  # what may come, and is held back, before the first content
FINISH_GRACE_S = 1.0  # for usage and the end mark once every answer has its finish reason

_REASONS = {
    "open": "no_finish_reason",
    "done": "no_finish_reason",
    "error": "error_in_200",
    "broken": "not_json",
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
        self._watcher = StreamWatcher(choices=call.view.choices, hide_usage=call.adds_usage)
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
        if not self._client.started and (watcher.ending == "error" or not watcher.has_content):
            return self._failure(reason)
        if watcher.ending == "error":
            self._end("upstream_error", watcher.held, reason)
        else:
            self._end("truncated", _error_event(reason), reason)
        return None

    async def _pass_on(self) -> None:
        """Until the stream ends, one way or another."""
        timeouts = self._attempt.target.timeouts
        connection, watcher, trace = self._connection, self._watcher, self._trace
        connection.arm("first_token", timeouts.first_token_s)
        while True:
            await connection.more()
            data = connection.take()
            trace.keep(data)
            passed = watcher.feed(data)
            if watcher.ending == "open" and connection.complete:
                passed += watcher.close()
            over = watcher.ending != "open" or connection.complete
            if over or not watcher.has_content:
                self._unsent += passed
                if len(self._unsent) > MAX_OPENING_BYTES and not watcher.has_content:
                    raise ProtocolError(f"a stream began with {MAX_OPENING_BYTES} bytes and no content")
            elif passed:
                connection.rest()
                if self._client.is_behind:
                    await self._client.drain()
                self._send(passed)
            if over:
                return
            if watcher.is_exhausted:
                connection.arm("idle", min(timeouts.idle_s, FINISH_GRACE_S))
            elif watcher.has_content:
                connection.arm("idle", timeouts.idle_s)

    def _send(self, passed: bytes) -> None:
        if not self._client.started:
            self._start()
            passed, self._unsent = self._unsent + passed, b""
        self._client.write(passed)

    def _start(self) -> None:
        if self._watcher.has_content:
            self._trace.first_content()
        self._trace.status = self._status
        headers = downstream(self._connection.headers, own_headers(self._trace), keep_length=False)
        self._client.start(self._status, headers)

    def _end(self, outcome: Outcome, tail: bytes, reason: str | None = None) -> None:
        """Write the trace down, then give the client the rest."""
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


def _error_event(reason: str) -> bytes:
    message = f"The upstream's stream broke off ({reason}); the answer up to here is not whole."
    return b"data: " + error_body(message, "server_error", "stream_truncated") + b"\n\n"
