"""Races: one winner, the other ended at once, and whoever leaves ends both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import product
from typing import Any

import pytest

from gateway.fiber import SUSPEND, Fiber
from gateway.race import OvertakenError, race

SOON_S = 0.01
NEVER_S = 1000.0


class Runner:
    """A coroutine that ends when it is told to; `ended` says how it did."""

    def __init__(self) -> None:
        self.result: str | None = None
        self.began = False
        self.ended: str | None = None

    async def run(self) -> str:
        self.began = True
        try:
            while self.result is None:
                await SUSPEND
        except Exception as error:
            self.ended = type(error).__name__
            raise
        self.ended = self.result
        return self.result


class Race:
    """A race of two runners, in a fiber. A result that begins with "good" wins."""

    def __init__(self, after_s: float = SOON_S, *, declines: bool = False) -> None:
        self.first, self.second = Runner(), Runner()
        self.asked = 0
        self.declines = declines
        self.fiber = Fiber()
        self.result: str | None = None
        self.raised: BaseException | None = None
        self.fiber.run(self._run(after_s))

    def _second(self) -> Coroutine[Any, Any, str] | None:
        self.asked += 1
        return None if self.declines else self.second.run()

    async def _run(self, after_s: float) -> None:
        try:
            self.result = await race(
                self.fiber, self.first.run(), after_s, self._second, lambda result: result.startswith("good")
            )
        except Exception as error:  # noqa: BLE001 -- whatever it is, a test asks for it
            self.raised = error

    def ends(self, runner: Runner, result: str) -> None:
        runner.result = result
        self.fiber.wake()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- fibers know no events
            await asyncio.sleep(0.001)


async def begun() -> Race:
    """A race in which both run."""
    race = Race()
    await until(lambda: race.second.began)
    return race


@pytest.mark.parametrize("result", ["good", "bad"])
async def test_one_that_is_quick_runs_alone(result: str):
    race = Race(NEVER_S)
    race.fiber.wake()
    assert race.result is None
    race.ends(race.first, result)

    assert race.result == result
    assert race.asked == 0


async def test_nothing_is_asked_after_the_end():
    race = Race()
    race.ends(race.first, "good")
    await asyncio.sleep(5 * SOON_S)

    assert race.asked == 0


async def test_the_second_wins_and_the_first_is_ended():
    race = await begun()
    race.ends(race.second, "good second")

    assert race.result == "good second"
    assert race.first.ended == "OvertakenError"


async def test_the_first_may_win_yet():
    race = await begun()
    race.ends(race.first, "good first")

    assert race.result == "good first"
    assert race.second.ended == "OvertakenError"


@pytest.mark.parametrize(("which", "last"), product([0, 1], ["good", "bad"]))
async def test_what_does_not_win_waits_for_the_other(which: int, last: str):
    race = await begun()
    one, other = [race.first, race.second][:: -1 if which else 1]
    race.ends(one, "bad")
    assert race.result is None
    race.ends(other, last)

    assert race.result == last


async def test_one_of_two_that_are_good_at_once_is_given_and_the_other_ended():
    race = await begun()
    race.second.result = "good second"
    race.ends(race.first, "good first")

    assert race.result == "good first"
    assert race.second.ended == "OvertakenError"


async def test_one_that_is_declined_leaves_the_first_alone():
    race = Race(declines=True)
    await until(lambda: race.asked == 1)
    race.fiber.wake()
    race.ends(race.first, "good")

    assert race.result == "good"
    assert race.asked == 1


async def test_what_is_raised_meanwhile_ends_both():
    race = await begun()
    race.fiber.throw(KeyError("the client left"))

    assert (race.first.ended, race.second.ended) == ("KeyError", "KeyError")
    assert isinstance(race.raised, KeyError)


async def test_a_bug_in_one_ends_the_other_and_is_raised():
    race = await begun()
    race.second.result = 1  # type: ignore[assignment] -- the bug
    race.fiber.wake()

    assert isinstance(race.raised, AttributeError)
    assert race.first.ended == "AttributeError"


async def test_one_that_would_wait_on_is_closed():
    fiber, closed = Fiber(), []

    async def stubborn() -> str:
        try:
            while True:
                try:
                    await SUSPEND
                except OvertakenError:
                    await SUSPEND
        finally:
            closed.append(True)

    async def quick() -> str:
        return "good"

    async def run() -> None:
        await race(fiber, stubborn(), 0, quick, lambda _: True)

    fiber.run(run())
    await until(lambda: bool(closed))
