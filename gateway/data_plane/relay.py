"""Passes one response on to the client: whole, in pieces where it is large, or as a stream of events.

Until its first byte is with the client, everything that goes wrong is returned as a Failure or raised as an
UpstreamError, and another attempt may be made. The trace is written down before the last byte leaves.
"""

from __future__ import annotations

import msgspec

from gateway.data_plane.attempt import Failure, OpenAttempt, Response
from gateway.data_plane.call import Call, own_headers
from gateway.data_plane.errors import Headers
from gateway.data_plane.headers import downstream
from gateway.data_plane.relay_stream import relay_stream
from gateway.traces.types import Outcome
from gateway.upstream.connection import Connection
from gateway.upstream.errors import DisconnectedError, ProtocolError, UpstreamError
from gateway.upstream.retries import is_moved, is_retried, parse_retry_after

BUFFERED_BYTES = 1024 * 1024  # of a response that is held until it is whole; a larger one passes in pieces


async def relay(attempt: OpenAttempt, connection: Connection) -> Failure | None:
    """Relay the response whose head *connection* has received. None: the client has been answered."""
    if connection.is_events and connection.status < 400:
        if _encoding(connection.headers) is not None:
            raise ProtocolError(
                f"upstream {attempt.pool.name!r} compressed a stream although accept-encoding says identity"
            )
        return await relay_stream(attempt, connection)
    connection.arm("idle", attempt.pool.upstream.timeouts.idle_s)
    await connection.body(BUFFERED_BYTES)
    if connection.complete:
        return await _relay_whole(attempt, connection)
    return await _relay_pieces(attempt, connection)


async def _relay_whole(attempt: OpenAttempt, connection: Connection) -> Failure | None:
    status, headers, body = connection.status, connection.headers, connection.take()
    attempt.call.trace.keep(body)
    response = Response(status=status, headers=headers, body=body)
    if status >= 400:
        return _refused(response)
    if attempt.call.endpoint.dialect.reports_error(body):
        return Failure(reason="error_in_200", may_retry=True, may_move=True, response=response)
    if not connection.framed and not _is_json(body):
        # Only the connection's end says where this body ends, and that looks the same when it broke off.
        raise DisconnectedError(f"upstream {attempt.pool.name!r} closed before its response was whole")
    attempt.end(status)
    send_response(attempt.call, response, "ok")
    return None


def _refused(response: Response) -> Failure:
    status = response.status
    return Failure(
        reason="status_429" if status == 429 else "status_4xx" if status < 500 else "status_5xx",
        may_retry=is_retried(status),
        may_move=is_moved(status),
        response=response,
        retry_after_s=parse_retry_after(response.headers),
    )


def send_response(call: Call, response: Response, outcome: Outcome, error: str | None = None) -> None:
    """Give the client a whole response of an upstream, as it came."""
    trace = call.trace
    trace.status = response.status
    trace.settle(response.body, _encoding(response.headers))
    headers = downstream(response.headers, own_headers(trace), keep_length=True)
    trace.finish(outcome, error)
    call.client_side.answer(response.status, headers, response.body)


async def _relay_pieces(attempt: OpenAttempt, connection: Connection) -> Failure | None:
    call = attempt.call
    trace, client_side = call.trace, call.client_side
    idle_s = attempt.pool.upstream.timeouts.idle_s
    status = trace.status = connection.status
    trace.content_encoding = _encoding(connection.headers)
    connection.on_expired = call.expire
    headers = downstream(connection.headers, own_headers(trace), keep_length=True)
    client_side.start(status, headers)
    try:
        while True:
            data = connection.take()
            trace.keep(data)
            if connection.complete:
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
        return None
    attempt.end(status)
    trace.finish("ok" if status < 400 else "upstream_error", None if status < 400 else f"status {status}")
    client_side.end(data)
    return None


def _encoding(headers: Headers) -> str | None:
    """How the body is compressed, None where it is not."""
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            return value.decode("latin-1")
    return None


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
