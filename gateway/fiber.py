"""Runs a request's coroutine from the callbacks that bring it news, without an asyncio task.

A task costs a turn of the event loop and a future for each wait, and a streamed answer waits once a chunk. A
fiber is resumed where the news arrives, inside `data_received`, and costs one call. Inside it nothing of
asyncio may be awaited but through `in_task` and `sleep`; everything else waits in the one way there is:

    while not what_is_waited_for:
        await SUSPEND
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class _Suspend:
    """Gives control back to whoever resumed the fiber. The next resumption may be for any reason."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


SUSPEND = _Suspend()


class Fiber:
    """Steps one coroutine, in one thread.

    The coroutine must handle its own exceptions: one that escapes it reaches whoever happened to wake it.
    """

    __slots__ = ("_coroutine", "_stepping", "_thrown", "_woken")

    def __init__(self) -> None:
        self._coroutine: Coroutine[None, None, None] | None = None
        self._stepping = False
        self._woken = False
        self._thrown: BaseException | None = None

    def run(self, coroutine: Coroutine[None, None, None]) -> None:
        """Start *coroutine*; returns when it ends or first suspends."""
        self._coroutine = coroutine
        self._step(None)

    def wake(self) -> None:
        """Something it may wait for has come. Nothing happens when it has ended."""
        if self._stepping:
            self._woken = True
        elif self._coroutine is not None:
            self._step(None)

    def throw(self, error: BaseException) -> None:
        """Raise *error* where it is suspended, at once, or where it next suspends if it is running now."""
        if self._stepping:
            self._thrown = error
        elif self._coroutine is not None:
            self._step(error)

    async def sleep(self, seconds: float) -> None:
        """Suspend for *seconds*."""
        over = False

        def end() -> None:
            nonlocal over
            over = True
            self.wake()

        timer = asyncio.get_running_loop().call_later(seconds, end)
        try:
            while not over:
                await SUSPEND
        finally:
            timer.cancel()

    async def in_task(self, coroutine: Coroutine[Any, Any, T], undo: Callable[[T], None]) -> T:
        """Await *coroutine*, which may use all of asyncio, in a task of its own.

        When the fiber is broken off meanwhile the task is cancelled, and *undo* gets the result that it may
        have had already.
        """
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(lambda _: self.wake())
        try:
            while not task.done():
                await SUSPEND
        except BaseException:
            task.cancel()
            task.add_done_callback(lambda done: _undo(done, undo))
            raise
        return task.result()

    def _step(self, error: BaseException | None) -> None:
        coroutine = self._coroutine
        assert coroutine is not None, "a fiber is stepped between `run` and its end"
        self._stepping = True
        try:
            while True:
                self._woken = False
                if error is None:
                    coroutine.send(None)
                else:
                    coroutine.throw(error)
                error, self._thrown = self._thrown, None
                if error is None and not self._woken:
                    return
        except StopIteration:
            self._coroutine = None
        except BaseException:
            self._coroutine = None
            raise
        finally:
            self._stepping = False


def _undo(task: asyncio.Task[T], undo: Callable[[T], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        undo(task.result())
