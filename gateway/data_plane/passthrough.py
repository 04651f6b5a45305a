"""Endpoints that are passed through to the default upstream, where it lists their family. No route, no retry.

Bodies go both ways as they come and are held nowhere: an upload may be larger than memory. Of such a request
only the metadata is captured.
"""

from __future__ import annotations

import re
import time
from typing import get_args
from urllib.parse import unquote

from gateway.config.types import PassthroughFamily
from gateway.data_plane import errors
from gateway.data_plane.attempt import OpenAttempt
from gateway.data_plane.attempts import give_up, wait_turn
from gateway.data_plane.auth import Client
from gateway.data_plane.call import Call
from gateway.data_plane.exchange import Exchange
from gateway.data_plane.plan import Target
from gateway.data_plane.relay import relay_pieces
from gateway.fiber import SUSPEND
from gateway.state import Live
from gateway.upstream.channel import Channel
from gateway.upstream.errors import UpstreamError

_SHOWN = frozenset({"speech", "transcriptions", "translations", "generations", "edits", "variations", "jobs"})
METHODS = ("GET", "POST", "DELETE")
_ADMIN_ONLY = frozenset({"files", "batches", "fine_tuning"})  # they show and change what is everybody's
_FAMILIES: frozenset[str] = frozenset(get_args(PassthroughFamily))
# Nothing that an upstream could take for another path than we do: no empty segment, no dots, no escapes of
# slashes, no backslash, no parameters.
_PLAIN_SEGMENT = re.compile(r"^(?!\.{1,2}\Z)[A-Za-z0-9._~:@!$&'()*+,=-]+\Z")


def family_of(path: str) -> str | None:
    """The family that *path* (`/v1/audio/speech`) belongs to, None where it is of none or is not plain."""
    segments = path.split("/")[2:]
    if not segments or segments[0] not in _FAMILIES:
        return None
    return segments[0] if all(_PLAIN_SEGMENT.match(unquote(segment)) for segment in segments) else None


def admit_passthrough(live: Live, client: Client, method: str, path: str, family: str) -> str:
    """The upstream that takes the request. Raises ApiError: 403, 404 or 405."""
    name = live.table.default_upstream
    if name is None or family not in live.config.upstream(name).passthrough:
        raise errors.unknown_endpoint(method, path)
    if method not in METHODS:
        raise errors.wrong_method(method, path, ", ".join(METHODS))
    if family in _ADMIN_ONLY and not client.may("admin"):
        raise errors.not_permitted(f"/v1/{family} needs a key with scope `admin`.")
    if not client.may_use(""):
        raise errors.not_permitted("This key may use its routes only.")
    return name


def check_length(live: Live, length: int | None) -> None:
    """Raise ApiError (413) for an upload that need not be read to be refused."""
    most = live.config.listen.max_upload_bytes
    if length is not None and length > most:
        raise errors.too_large_upload(most)


def label_of(path: str, family: str) -> str:
    """What traces call *path*: without what a client can invent."""
    segment = path.split("/")[3:4]
    return f"/v1/{family}/{segment[0]}" if segment and segment[0] in _SHOWN else f"/v1/{family}"


async def pass_through(call: Call, exchange: Exchange, upstream: str) -> None:
    """Answer *call* with what *upstream* says. Raises ApiError for what is wrong with the client's body."""
    pool = call.trace.live.pools[upstream]
    try:
        if not pool.try_enter():
            await wait_turn(call, pool, pool.upstream.timeouts.total_s)
    except UpstreamError as error:
        give_up(call, error)
        return
    target = Target(upstream=upstream, model="", timeouts=pool.upstream.timeouts)
    attempt = OpenAttempt(call, pool, target, pool.pick(time.monotonic()))
    attempt.kept.skip()
    try:
        connection = await attempt.open()
        await _send(call, exchange, attempt, connection)
        connection.arm("headers", target.timeouts.headers_s)
        await attempt.head_of(connection)
        _leave_the_rest(exchange)
        await relay_pieces(attempt, connection)
    except UpstreamError as error:
        attempt.end(None, error.reason)
        _leave_the_rest(exchange)
        give_up(call, error)
    finally:
        attempt.end(None, "cancelled")


def _leave_the_rest(exchange: Exchange) -> None:
    if not exchange.body_whole:
        exchange.keep_alive = False  # nobody will take what is still to come


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
