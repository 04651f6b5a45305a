"""Passes one response on to the client: whole, in pieces where it is large, or as a stream of events.

Until its first byte is with the client, everything that goes wrong is returned as a Failure or raised as an
UpstreamError, and another attempt may be made. The trace is written down before the last byte leaves.
"""

from __future__ import annotations

import time
from typing import Protocol

import msgspec

from gateway.data_plane.attempt import Failure, OpenAttempt, Response, failure_of
from gateway.data_plane.body import RequestView
from gateway.data_plane.call import Call, answer_lines
from gateway.data_plane.errors import Headers
from gateway.data_plane.refusals import refused, reported
from gateway.data_plane.relay_stream import StreamRelay
from gateway.data_plane.sse import BEGINNING_BYTES, begins_events
from gateway.traces.types import Outcome
from gateway.upstream.channel import WITHOUT_BODY, Channel
from gateway.upstream.errors import DisconnectedError, ProtocolError, UpstreamError

BUFFERED_BYTES = 1024 * 1024  # of a response that is held until it is whole; a larger one passes in pieces


class Ready(Protocol):
    """A response that can be given to the client, from its first byte on."""

    async def deliver(self) -> None: ...


async def open_response(attempt: OpenAttempt, connection: Channel) -> Ready | Failure:
    """Read the response whose head *connection* has received, until the client could have its first byte."""
    if connection.status < 400 and (
        connection.is_events or (attempt.call.view.stream and await _begins_events(attempt, connection))
    ):
        if _encoding(connection.headers) is not None:
            what = "compressed a stream although accept-encoding says identity"
            return failure_of(ProtocolError(f"upstream {attempt.pool.name!r} {what}"))
        stream = StreamRelay(attempt, connection)
        return await stream.open() or stream
    if not connection.complete:
        connection.arm("idle", attempt.target.timeouts.idle_s)
        await connection.body(BUFFERED_BYTES)
    return _judge_whole(attempt, connection) if connection.complete else _Pieces(attempt, connection)


async def _begins_events(attempt: OpenAttempt, connection: Channel) -> bool:
    """Whether the body begins as events do, which its head does not call them.

    Some servers name no type for their streams, or another one, and clients read them all the same.
    """
    if _encoding(connection.headers) is not None:
        return False
    if not connection.complete:
        connection.arm("first_token", attempt.target.timeouts.first_token_s)
        await connection.body(BEGINNING_BYTES)
    return begins_events(connection.peek())


def _judge_whole(attempt: OpenAttempt, connection: Channel) -> Ready | Failure:
    status, headers = connection.status, connection.headers
    body = attempt.pool.mask.whole(connection.take())
    attempt.kept.add(body)
    response = Response(status=status, headers=headers, body=body, known=connection.known)
    if status >= 400:
        return refused(response, time.time())
    if attempt.call.endpoint.dialect.reports_error(body):
        return reported(response, body)
    if not connection.framed and not _is_json(body):
        # Only the connection's end says where this body ends, and that looks the same when it broke off.
        raise DisconnectedError(f"upstream {attempt.pool.name!r} closed before its response was whole")
    is_plain = response.known is not None or _encoding(headers) is None
    if status < 300 and status not in WITHOUT_BODY and is_plain and not _is_answer(body, attempt.call.view):
        error = ProtocolError(f"upstream {attempt.pool.name!r} answered {status} with what is not JSON")
        return Failure(reason="not_json", may_retry=True, may_move=True, error=error)
    return _Whole(attempt, response)


class _Whole:
    def __init__(self, attempt: OpenAttempt, response: Response) -> None:
        self._attempt = attempt
        self._response = response

    async def deliver(self) -> None:
        attempt, response = self._attempt, self._response
        attempt.end(response.status)
        if response.known is None:
            attempt.kept.content_encoding = _encoding(response.headers)
        _send(attempt.call, response, "ok", None)


class _Pieces:
    def __init__(self, attempt: OpenAttempt, connection: Channel) -> None:
        self._attempt = attempt
        self._connection = connection

    async def deliver(self) -> None:
        await relay_pieces(self._attempt, self._connection)


def send_response(call: Call, response: Response, outcome: Outcome, error: str | None = None) -> None:
    """Give the client a whole response of an upstream, as it came."""
    call.trace.settle(response.body, _encoding(response.headers))
    _send(call, response, outcome, error)


def _send(call: Call, response: Response, outcome: Outcome, error: str | None) -> None:
    trace = call.trace
    trace.status = response.status
    lines = answer_lines(trace, response.headers, response.known)
    trace.finish(outcome, error)
    call.client_side.answer(response.status, lines, response.body)


async def relay_pieces(attempt: OpenAttempt, connection: Channel) -> None:
    """Relay a response as it comes in, whatever it is. Where it breaks off, so does our answer."""
    call = attempt.call
    trace, client_side = call.trace, call.client_side
    idle_s = attempt.target.timeouts.idle_s
    status = trace.status = connection.status
    attempt.kept.content_encoding = _encoding(connection.headers)
    connection.on_expired = call.expire
    has_length = any(name == b"content-length" for name, _ in connection.headers)
    lines = answer_lines(trace, connection.headers, keep_length=True)
    client_side.start(status, lines, has_length=has_length)
    try:
        while True:
            complete = connection.complete
            data = attempt.masked(connection.take(), last=complete)
            attempt.kept.add(data)
            if complete:
                break
            connection.rest()
            if client_side.is_behind:
                await client_side.drain()
            client_side.write(data)
            connection.arm("idle", idle_s)
            await connection.more()
    except UpstreamError as error:
        attempt.end(status, error.reason)
        trace.finish("truncated", error.reason)
        client_side.abort()
        return
    attempt.end(status)
    trace.finish("ok" if status < 400 else "upstream_error", None if status < 400 else f"status {status}")
    client_side.end(data)


def _encoding(headers: Headers) -> str | None:
    """How the body is compressed, None where it is not."""
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            return value.decode("latin-1")
    return None


def _is_answer(body: bytes, view: RequestView) -> bool:
    """Whether *body* can be one: JSON, or where a stream was asked for, one under another content type.

    Its beginning has to do: servers say `NaN` where JSON has no word.
    """
    said = body.lstrip()
    return said.startswith((b"{", b"[")) or (view.stream and bool(said))


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
