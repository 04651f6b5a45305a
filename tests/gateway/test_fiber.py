"""Fibers: resumed where the news arrives, broken off at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.fiber import SUSPEND, Fiber


class Gate:
    """Something to wait for."""

    def __init__(self) -> None:
        self.open = False

    async def wait(self) -> None:
        while not self.open:
            await SUSPEND


def test_it_runs_to_its_first_wait_and_on_when_the_news_has_come():
    gate, fiber, done = Gate(), Fiber(), []

    async def work() -> None:
        done.append("begun")
        await gate.wait()
        done.append("ended")

    fiber.run(work())
    assert done == ["begun"]
    fiber.wake()  # for another reason
    assert done == ["begun"]
    gate.open = True
    fiber.wake()
    assert done == ["begun", "ended"]
    fiber.wake()  # long after


def test_news_that_comes_while_it_runs_is_not_missed():
    gate, fiber, done = Gate(), Fiber(), []

    async def work() -> None:
        gate.open = True
        fiber.wake()  # as a callback would that is called by what it does itself
        await SUSPEND
        await gate.wait()
        done.append("ended")

    fiber.run(work())
    assert done == ["ended"]


@pytest.mark.parametrize("inside", [True, False])
def test_an_error_is_raised_where_it_waits(inside: bool):
    fiber, caught = Fiber(), []

    async def work() -> None:
        try:
            if inside:
                fiber.throw(KeyError("inside"))
            await SUSPEND
        except KeyError as error:
            caught.append(error.args[0])

    fiber.run(work())
    if not inside:
        fiber.throw(KeyError("outside"))
    assert caught == ["inside" if inside else "outside"]
    fiber.throw(KeyError("after its end"))
    assert len(caught) == 1


def test_what_escapes_it_reaches_whoever_woke_it_and_ends_it():
    fiber = Fiber()

    async def work() -> None:
        await SUSPEND
        raise ValueError("escaped")

    fiber.run(work())
    with pytest.raises(ValueError, match="escaped"):
        fiber.wake()
    fiber.wake()


async def finished(start: Callable[[Callable[[], None]], None]) -> None:
    done = asyncio.Event()
    start(done.set)
    await asyncio.wait_for(done.wait(), 5)


async def test_it_sleeps_and_awaits_tasks():
    fiber, got = Fiber(), []

    async def slow() -> str:
        await asyncio.sleep(0.01)
        return "result"

    async def work(done: Callable[[], None]) -> None:
        await fiber.sleep(0.01)
        got.append(await fiber.in_task(slow(), got.append))
        done()

    await finished(lambda done: fiber.run(work(done)))
    assert got == ["result"]


async def test_an_error_of_a_task_is_raised_in_it():
    fiber, got = Fiber(), []

    async def fails() -> None:
        raise OSError("refused")

    async def work(done: Callable[[], None]) -> None:
        try:
            await fiber.in_task(fails(), lambda _: None)
        except OSError as error:
            got.append(str(error))
        done()

    await finished(lambda done: fiber.run(work(done)))
    assert got == ["refused"]


async def test_broken_off_it_cancels_its_task():
    fiber, undone, began, cancelled = Fiber(), [], asyncio.Event(), asyncio.Event()

    async def connects() -> str:
        began.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "connection"

    fiber.run(ends_by(ConnectionError, fiber.in_task(connects(), undone.append)))
    await began.wait()
    fiber.throw(ConnectionError())
    await asyncio.wait_for(cancelled.wait(), 5)
    assert undone == []


async def test_broken_off_it_gives_back_what_its_task_had_already():
    fiber, undone = Fiber(), []

    async def connects() -> str:
        # Runs between the end of this task and the news of it.
        asyncio.get_running_loop().call_soon(fiber.throw, ConnectionError())
        return "connection"

    fiber.run(ends_by(ConnectionError, fiber.in_task(connects(), undone.append)))
    await asyncio.sleep(0.01)
    assert undone == ["connection"]


async def ends_by(expected: type[Exception], work: Awaitable[object]) -> None:
    with pytest.raises(expected):
        await work
