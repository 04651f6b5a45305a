"""Runs a second coroutine beside one that is slow, in the same fiber. Whichever wins ends the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from gateway.fiber import SUSPEND, Fiber

T = TypeVar("T")


class OvertakenError(Exception):
    """Raised in the coroutine that lost, where it is suspended."""


class _Runner(Generic[T]):
    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.ended = False
        self.results: list[T] = []  # none or one: any value may be a result

    def step(self) -> None:
        try:
            self._coroutine.send(None)
        except StopIteration as end:
            self.ended = True
            self.results.append(end.value)
        except BaseException:
            self.ended = True
            raise

    def break_off(self, reason: BaseException) -> None:
        if self.ended:
            return
        self.ended = True
        try:
            self._coroutine.throw(reason)
        except StopIteration:
            pass
        except BaseException as error:
            if error is not reason:
                raise
        else:
            self._coroutine.close()  # it would wait on


async def race(
    fiber: Fiber,
    first: Coroutine[Any, Any, T],
    after_s: float,
    second: Callable[[], Coroutine[Any, Any, T] | None],
    wins: Callable[[T], bool],
) -> T:
    """The result of *first*, or of *second* when *first* has none after *after_s*: whichever *wins* sooner.

    *second* is called at most once, then; None: nothing runs beside *first*. A result that does not win is
    returned only when nothing else runs. Both coroutines wait as fibers do, and resume for any reason. What
    is raised in the fiber meanwhile is raised in both; neither runs on when this returns.
    """
    runners = [_Runner(first)]
    due = False

    def ring() -> None:
        nonlocal due
        due = True
        fiber.wake()

    timer = asyncio.get_running_loop().call_later(after_s, ring)
    reason: BaseException = OvertakenError()
    try:
        while True:
            result = _step(runners, wins)
            if result:
                return result[0]
            if due:
                due = False
                beside = second()
                if beside is not None:
                    runners.append(_Runner(beside))
                    continue
            await SUSPEND
    except BaseException as error:
        reason = error
        raise
    finally:
        timer.cancel()
        for runner in runners:
            runner.break_off(reason)


def _step(runners: list[_Runner[T]], wins: Callable[[T], bool]) -> list[T]:
    """Go on with each; the result that ends the race, if there is one."""
    for runner in runners:
        if runner.ended:
            continue
        runner.step()
        if runner.results and (wins(runner.results[0]) or all(other.ended for other in runners)):
            return runner.results
    return []
