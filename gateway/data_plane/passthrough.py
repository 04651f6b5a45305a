"""Passes a request through to the default upstream and its answer back. No route, no retry.

What is asked for by its id lies at one of the upstream's servers, so that a 404 has the next one asked.
Bodies go both ways as they come and are held nowhere: an upload may be larger than memory. Of such a request
only the metadata is captured. A stream that we can read is watched as a routed one is (law 5).
"""

from __future__ import annotations

import time

from gateway.data_plane import errors
from gateway.data_plane.attempt import OpenAttempt
from gateway.data_plane.attempts import give_up, wait_turn
from gateway.data_plane.call import Call
from gateway.data_plane.exchange import Exchange
from gateway.data_plane.families import Passed
from gateway.data_plane.plan import Target
from gateway.data_plane.relay import relay_pieces
from gateway.data_plane.relay_stream import StreamRelay
from gateway.fiber import SUSPEND
from gateway.state import Live
from gateway.upstream.channel import Channel
from gateway.upstream.errors import UpstreamError
from gateway.upstream.pool import Server, UpstreamPool

MAX_ASKED = 8  # servers for one id: who makes ids up has no more of them asked


def check_length(live: Live, length: int | None) -> None:
    """Raise ApiError (413) for an upload that need not be read to be refused."""
    most = live.config.listen.max_upload_bytes
    if length is not None and length > most:
        raise errors.too_large_upload(most)


async def pass_through(call: Call, exchange: Exchange, upstream: str, passed: Passed) -> None:
    """Answer *call* with what *upstream* says. Raises ApiError for what is wrong with the client's body."""
    pool = call.trace.live.pools[upstream]
    target = Target(upstream=upstream, model="", timeouts=pool.upstream.timeouts)
    # What has a body cannot be sent twice: nobody keeps it.
    most = MAX_ASKED if passed.stored and exchange.body_whole and not exchange.length else 1
    asked: list[Server] = []
    server: Server | None = None
    while server is not None or not asked:
        try:
            if not pool.try_enter():
                await wait_turn(call, pool, target.timeouts.total_s)
        except UpstreamError as error:
            give_up(call, error)
            return
        attempt = OpenAttempt(call, pool, target, server or pool.pick(time.monotonic()))
        asked.append(attempt.server)
        server = _another(pool, asked) if len(asked) < most else None
        if await _answered(attempt, exchange, passed, may_lie_elsewhere=server is not None):
            return


def _another(pool: UpstreamPool, asked: list[Server]) -> Server | None:
    """A server that has not been asked and is well."""
    now = time.monotonic()
    others = (server for server in pool.servers if server not in asked and server.health.available(now))
    return next(others, None)


async def _answered(
    attempt: OpenAttempt, exchange: Exchange, passed: Passed, *, may_lie_elsewhere: bool
) -> bool:
    """Whether the client has been answered: not where a 404 says only that it does not lie at this server."""
    call = attempt.call
    attempt.kept.skip()
    try:
        connection = await attempt.open()
        await _send(call, exchange, attempt, connection)
        connection.arm("headers", attempt.target.timeouts.headers_s)
        await attempt.head_of(connection)
        if connection.status == 404 and may_lie_elsewhere:
            attempt.end(404, "status_4xx")
            return False
        _leave_the_rest(exchange)
        if passed.dialect is not None and connection.is_events and connection.status < 400:
            await _watch(attempt, connection)
        else:
            await relay_pieces(attempt, connection)
    except UpstreamError as error:
        attempt.end(None, error.reason)
        _leave_the_rest(exchange)
        give_up(call, error)
    finally:
        attempt.end(None, "cancelled")
    return True


def _leave_the_rest(exchange: Exchange) -> None:
    if not exchange.body_whole:
        exchange.keep_alive = False  # nobody will take what is still to come


async def _watch(attempt: OpenAttempt, connection: Channel) -> None:
    """Relay a stream whose events we can read. Raises UpstreamError while the client has nothing of it."""
    attempt.call.trace.stream = True
    stream = StreamRelay(attempt, connection)
    failure = await stream.open()
    if failure is None or failure.response is not None:  # no other attempt will do better: it passes as it is
        attempt.opened()
        await stream.deliver()
        return
    assert failure.error is not None, "a failure has a response or an error"
    raise failure.error


async def _send(call: Call, exchange: Exchange, attempt: OpenAttempt, connection: Channel) -> None:
    """Pass the request's body on as it comes, until it is whole or the upstream answers early."""
    own = call.trace.own
    most = call.trace.live.config.listen.max_upload_bytes
    length = own.content_length
    chunked = length is None and own.is_chunked
    head = _head(call, exchange, attempt, length, chunked=chunked)
    connection.begin(head, attempt.total_at, chunked=chunked)
    sent = 0
    while not connection.headed:
        connection.check()
        if connection.is_behind:
            connection.arm("idle", attempt.target.timeouts.idle_s)
            await SUSPEND
            continue
        connection.rest()
        data = exchange.take()
        sent += len(data)
        if sent > most:
            raise errors.too_large_upload(most)
        if data:
            connection.send_piece(data)
        elif exchange.body_whole:
            connection.sent()
            return
        else:
            exchange.expect_more()
            await SUSPEND


def _head(
    call: Call, exchange: Exchange, attempt: OpenAttempt, length: int | None, *, chunked: bool
) -> bytes:
    method = exchange.method.decode("ascii")
    if chunked:
        framing = b"transfer-encoding: chunked\r\n"
    elif length is not None or method == "POST":
        framing = b"content-length: %d\r\n" % (length or 0)
    else:
        framing = b""
    make = attempt.pool.head
    first = make.passed(attempt.server.address, method, call.endpoint.upstream_path, call.query)
    return first + make.filter(call.passed) + framing + b"\r\n"
