"""Tries a request's targets until one answers: retries with pauses, then fallbacks, all bounded."""

from __future__ import annotations

import time

from gateway.data_plane.attempt import Failure, Response, failure_of
from gateway.data_plane.call import Call
from gateway.data_plane.errors import upstream_failed
from gateway.data_plane.opening import open_answer
from gateway.data_plane.plan import Target
from gateway.data_plane.relay import send_response
from gateway.traces.types import Outcome
from gateway.upstream.errors import DeadlineError, EjectedError, QueueFullError, UpstreamError
from gateway.upstream.pool import Server, UpstreamPool
from gateway.upstream.retries import pause_s


async def answer(call: Call) -> None:
    """Have one of the call's targets answer its client.

    When none does, the client gets the last response that an upstream gave, as it came, else our own error.
    """
    failure: Failure | None = None
    response: Response | None = None
    targets = call.trace.plan.targets
    while targets:
        target, *targets = targets
        pool = call.trace.live.pools[target.upstream]
        if targets and pool.balancer.is_down(time.monotonic()):
            failure = _passed_over(pool)
            continue
        failure = await _try_target(call, pool, target)
        if failure is None:
            return
        response = failure.response or response
        if not failure.may_move:
            break
        if failure.needs_larger_context:
            targets = [each for each in targets if each.larger_context]
    assert failure is not None, "a plan has at least one target"
    if response is not None:
        send_response(call, response, "upstream_error", failure.reason)
        return
    assert failure.error is not None, "a failure has a response or an error"
    give_up(call, failure.error)


def _passed_over(pool: UpstreamPool) -> Failure:
    """Every server of *pool* is ejected, and a fallback can answer at once."""
    return failure_of(EjectedError(f"all servers of upstream {pool.name!r} are ejected for failing"))


async def _try_target(call: Call, pool: UpstreamPool, target: Target) -> Failure | None:
    """Ask one upstream, again where that may help. None: the client has been answered."""
    retries = pool.upstream.retries
    total_at = call.trace.arrived + target.timeouts.total_s
    pool.retry_budget.deposit(time.monotonic())
    avoid: Server | None = None
    retry = 0
    while True:
        server, failure = await _try_once(call, pool, target, avoid)
        if failure is None or not failure.may_retry or retry >= retries.max:
            return failure
        retry += 1
        now = time.monotonic()
        # What one server asks for does not concern another.
        others = server is not None and pool.balancer.second(now, server) is not None
        pause = pause_s(retry, None if others else failure.retry_after_s, pool.random)
        if pause is None or now + pause >= total_at or not pool.retry_budget.withdraw(now):
            return failure
        try:
            await call.fiber.sleep(pause)
        finally:
            call.trace.paused_s += time.monotonic() - now  # a timer may ring a little early, or late
        avoid = server


async def wait_turn(call: Call, pool: UpstreamPool, total_s: float) -> None:
    """Until *pool* has a place for *call*, whose time is *total_s*. Raises UpstreamError."""
    waits_from = time.monotonic()
    try:
        await pool.wait_turn(call.fiber, call.trace.arrived + total_s)
    except UpstreamError as error:
        call.trace.state.metrics.attempt_failed(pool.name, error.reason)
        raise
    finally:
        call.trace.paused_s += time.monotonic() - waits_from


def give_up(call: Call, error: UpstreamError) -> None:
    """Tell the client that no upstream has answered, and why."""
    call.refuse(upstream_failed(error), _outcome(error), error.reason)


async def _try_once(
    call: Call, pool: UpstreamPool, target: Target, avoid: Server | None
) -> tuple[Server | None, Failure | None]:
    if not pool.try_enter():
        try:
            await wait_turn(call, pool, target.timeouts.total_s)
        except UpstreamError as error:
            return None, failure_of(error)
    opened = await open_answer(call, pool, target, avoid)
    attempt, result = opened.attempt, opened.result
    if isinstance(result, Failure):
        return attempt.server, result
    try:
        await result.deliver()
    finally:
        attempt.end(attempt.status, "cancelled")
    return attempt.server, None


def _outcome(error: UpstreamError) -> Outcome:
    if isinstance(error, QueueFullError):
        return "rejected"
    return "timeout" if isinstance(error, DeadlineError) else "upstream_error"
