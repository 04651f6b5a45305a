"""Opens one answer at one upstream: asks a server, and where it is slow to begin and may be, a second one."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from gateway.data_plane.attempt import OVERTAKEN, Failure, OpenAttempt, failure_of
from gateway.data_plane.call import Call
from gateway.data_plane.plan import Target
from gateway.data_plane.relay import Ready, open_response
from gateway.race import OvertakenError, race
from gateway.upstream.errors import UpstreamError
from gateway.upstream.hedging import Hedging
from gateway.upstream.pool import Server, UpstreamPool


class Opened(msgspec.Struct, frozen=True):
    """An attempt and what came of it. One that failed has ended; of another the caller is the owner."""

    attempt: OpenAttempt
    result: Ready | Failure


async def open_answer(call: Call, pool: UpstreamPool, target: Target, avoid: Server | None) -> Opened:
    """Ask a server of *pool*, of which a place is held, but *avoid* only if there is no other."""
    now = time.monotonic()
    key = pool.prefix_key(call.trace.request, target.model)
    attempt = OpenAttempt(call, pool, target, pool.pick(now, key=key, avoid=avoid))
    # A buffered answer says nothing before its end, and a retry has shown already that it may fail.
    if pool.hedging is None or not call.view.stream or avoid is not None:
        return await _open(attempt)
    return await _hedged(attempt, pool.hedging, key)


async def _hedged(first: OpenAttempt, hedging: Hedging, key: int | None) -> Opened:
    """The first answer that begins, of *first* and of a second attempt that is made when it may help."""
    pool, began = first.pool, time.monotonic()
    after_s = hedging.arrive(began)

    def second() -> Coroutine[Any, Any, Opened] | None:
        now = time.monotonic()
        server = pool.balancer.second(now, first.server, key=key)
        if server is None or not pool.try_enter():
            return None
        if not hedging.take(now):
            pool.leave()
            return None
        return _open(OpenAttempt(first.call, pool, first.target, server))

    if after_s is None:
        opened = await _open(first)
    else:
        fiber = first.call.fiber
        opened = await race(fiber, _open(first), after_s, second, lambda each: _decides(each.result))
        first.call.trace.kept = opened.attempt.kept
    now = time.monotonic()
    if opened.attempt is not first:
        first.call.trace.upstream_s += opened.attempt.started - began  # the time before it was waited for too
    # What failed at once says nothing of how long an answer takes to begin.
    if opened.attempt is not first or _wins(opened.result):
        hedging.observe(now - began, now)
    return opened


def _wins(result: Ready | Failure) -> bool:
    return not isinstance(result, Failure)


def _decides(result: Ready | Failure) -> bool:
    """Whether it ends a race: an answer, or a refusal that another server of the upstream would repeat."""
    return not isinstance(result, Failure) or (result.response is not None and not result.may_retry)


async def _open(attempt: OpenAttempt) -> Opened:
    result: Ready | Failure
    try:
        connection = await attempt.ask()
        result = await open_response(attempt, connection)
    except UpstreamError as error:
        result = failure_of(error, headed=attempt.status is not None)
    except OvertakenError:
        attempt.end(attempt.status, OVERTAKEN)
        raise
    except BaseException:
        attempt.end(attempt.status, "cancelled")
        raise
    if isinstance(result, Failure):
        attempt.fail(result)
    else:
        attempt.opened()
    return Opened(attempt, result)
