"""Passes a stream of events on: nothing before the first content, nothing silently cut short (law 5)."""

from __future__ import annotations

from gateway.data_plane.attempt import Failure, OpenAttempt, Response, failure_of
from gateway.data_plane.call import own_headers
from gateway.data_plane.errors import error_body
from gateway.data_plane.headers import downstream
from gateway.data_plane.sse import StreamWatcher
from gateway.traces.types import Outcome
from gateway.upstream.channel import Channel
from gateway.upstream.errors import DisconnectedError, ProtocolError, UpstreamError

MAX_OPENING_BYTES = 1024 * 1024  # what may come, and is held back, before the first content
FINISH_GRACE_S = 1.0  # for usage and the end mark once every answer has its finish reason

_REASONS = {
    "open": "no_finish_reason",
    "done": "no_finish_reason",
    "error": "error_in_200",
    "broken": "not_json",
}


class StreamRelay:
    """One stream of events: `open` until there is content, then `deliver`."""

    def __init__(self, attempt: OpenAttempt, connection: Channel) -> None:
        call = attempt.call
        self._attempt = attempt
        self._connection = connection
        self._call = call
        self._trace = call.trace
        self._client = call.client_side
        self._status = connection.status
        self._watcher = StreamWatcher(choices=call.view.choices, hide_usage=call.adds_usage)
        self._unsent = b""  # before the first content, and at the end, what goes with the last write
        self._over = False
        self._error: UpstreamError | None = None

    async def open(self) -> Failure | None:
        """Until there is content, or the stream has ended without an answer that can be given."""
        watcher = self._watcher
        self._connection.arm("first_token", self._attempt.target.timeouts.first_token_s)
        try:
            while not (self._over or watcher.has_content):
                self._unsent += await self._next()
                if len(self._unsent) > MAX_OPENING_BYTES and not watcher.has_content:
                    raise ProtocolError(f"a stream began with {MAX_OPENING_BYTES} bytes and no content")
        except UpstreamError as error:
            self._error, self._over = error, True
        # An answer that began is an answer broken off, whether its end came in the same packet or later.
        if self._over and not self._is_success and (watcher.ending == "error" or not watcher.has_content):
            return self._failure(self._reason)
        return None

    async def deliver(self) -> None:
        """Give the client what has come and what comes, and the end only when it is written down."""
        self._connection.on_expired = self._call.expire
        try:
            await self._pass_on()
        except UpstreamError as error:
            self._error = error
        if self._is_success:
            watcher = self._watcher
            self._end("ok", watcher.held if watcher.ending == "done" else b"")
        elif self._watcher.ending == "error":
            self._end("upstream_error", self._watcher.held, self._reason)
        else:
            self._end("truncated", _error_event(self._reason), self._reason)

    @property
    def _is_success(self) -> bool:
        return self._watcher.is_complete and self._watcher.ending != "error"

    @property
    def _reason(self) -> str:
        return self._error.reason if self._error is not None else _REASONS[self._watcher.ending]

    async def _pass_on(self) -> None:
        connection, watcher, client = self._connection, self._watcher, self._client
        idle_s = self._attempt.target.timeouts.idle_s
        passed, self._unsent = self._unsent, b""
        while not self._over:
            if passed:
                connection.rest()
                if client.is_behind:
                    await client.drain()
                if not client.started:
                    self._start()
                client.write(passed)
            connection.arm("idle", min(idle_s, FINISH_GRACE_S) if watcher.is_exhausted else idle_s)
            passed = await self._next()
        self._unsent = passed

    async def _next(self) -> bytes:
        """Of the next packet what may pass; `_over` when it was the last."""
        connection, watcher = self._connection, self._watcher
        await connection.more()
        data = connection.take()
        self._attempt.kept.add(data)
        passed = watcher.feed(data)
        if watcher.ending != "open":
            self._over = True
        elif connection.complete:
            self._over = True
            passed += watcher.close()
        return passed

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
