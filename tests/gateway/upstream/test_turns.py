"""Whose turn it is at an upstream: first come, first served, and no place is lost, whoever leaves when."""

from __future__ import annotations

import asyncio
import time
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.secrets import UpstreamSecrets
from gateway.config.types import Limits, Upstream
from gateway.fiber import SUSPEND, Fiber
from gateway.upstream.deadlines import Sweeper
from gateway.upstream.errors import QueueFullError
from gateway.upstream.pool import UpstreamPool

CONCURRENT, QUEUE = 2, 4


class LeftError(Exception):
    """A client went away."""


class Request:
    """Takes a place, now or later, and keeps it until it is let go or its client leaves."""

    def __init__(self, pool: UpstreamPool, order: list[Request]) -> None:
        self.fiber = Fiber()
        self.fate = "waits"
        self.waited = False
        self._pool = pool
        self._order = order
        self._done = False
        self.fiber.run(self._live())

    async def _live(self) -> None:
        try:
            self.waited = not self._pool.try_enter()
            if self.waited:
                await self._pool.wait_turn(self.fiber, time.monotonic() + 60)
            self.fate = "runs"
            self._order.append(self)
            try:
                while not self._done:
                    await SUSPEND
            finally:
                self._pool.leave()
            self.fate = "answered"
        except LeftError:
            self.fate = "left"
        except QueueFullError:
            self.fate = "refused"

    def answer(self) -> None:
        self._done = True
        self.fiber.wake()

    def leave(self) -> None:
        self.fiber.throw(LeftError())


def alive(came: list[Request]) -> list[Request]:
    return [each for each in came if each.fate in {"waits", "runs"}]


async def take(step: str, which: int, came: list[Request]) -> None:
    """Something happens to one of those that are alive."""
    if step == "turn":
        await asyncio.sleep(0)  # between a place's grant and its taking anything may happen
        return
    left = alive(came)
    chosen = left[which % len(left)] if left else None
    if chosen is not None and step == "leaves":
        chosen.leave()
    elif chosen is not None and chosen.fate == "runs":
        chosen.answer()


STEPS = st.tuples(st.sampled_from(["comes", "comes", "answered", "leaves", "turn"]), st.integers(0, 3))


@settings(max_examples=300)
@given(st.lists(STEPS, min_size=8, max_size=40))
def test_places_are_taken_in_order_and_all_are_free_in_the_end(steps: list[tuple[str, int]]):
    async def live() -> None:
        limits = Limits(concurrent=CONCURRENT, queue=QUEUE)
        upstream = Upstream(name="up", base_url="http://127.0.0.1:9/v1", limits=limits)
        pool = UpstreamPool(upstream, UpstreamSecrets(), workers=1, sweeper=Sweeper(), random=Random(1))
        came: list[Request] = []
        ran: list[Request] = []
        for step, which in steps:
            if step == "comes":
                before = pool.waiting
                came.append(Request(pool, ran))
                assert (came[-1].fate == "refused") == (before == QUEUE)
                assert came[-1].fate != "runs" or before == 0
            else:
                await take(step, which, came)
            assert sum(each.fate == "runs" for each in came) <= pool.in_flight <= CONCURRENT
            assert pool.waiting <= QUEUE
        waited = [each for each in ran if each.waited]
        assert waited == [each for each in came if each in waited]

        for _ in came:  # at least one more is answered in each turn
            await asyncio.sleep(0)
            for each in alive(came):
                if each.fate == "runs":
                    each.answer()
        assert alive(came) == []
        assert (pool.in_flight, pool.waiting) == (0, 0)

    asyncio.run(live())
