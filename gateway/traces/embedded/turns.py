"""The threads that statements run on: so many at once, inserts beside the others, and a bound on the waiting.

chDB runs as many statements at once as there are threads that call it. A question can take long, and captured
traces must not wait for it: inserts have threads of their own. A result that is streamed holds a thread only
while the engine works on its next piece, not while its client reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.traces.embedded.engine import ClickHouseError

T = TypeVar("T")

STATEMENTS_AT_ONCE = 12
INSERTS_AT_ONCE = 4  # with data behind them, and what asks about tables
WAIT_S = 60.0  # of a statement for its first thread


class Turns:
    """The threads of one kind of statement. Used from one event loop."""

    def __init__(self, kind: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=kind)
        self._free = asyncio.Semaphore(threads)
        self._kind = kind
        self._threads = threads

    async def begin(self, call: Callable[[], T], *, wait_s: float = WAIT_S) -> T:
        """The result of *call*, the first of a statement. Raises ClickHouseError where all stay busy."""
        try:
            await asyncio.wait_for(self._free.acquire(), wait_s)
        except TimeoutError as error:
            text = (
                f"Code: 202. DB::Exception: {self._threads} statements were running for {wait_s:g} s "
                f"({self._kind.upper()}_AT_ONCE). (TOO_MANY_SIMULTANEOUS_QUERIES)"
            )
            raise ClickHouseError(202, text) from error
        return await self._run(call)

    async def go_on(self, call: Callable[[], T]) -> T:
        """The result of *call*, another of a statement that has begun: it waits as long as it takes."""
        await self._free.acquire()
        return await self._run(call)

    def close(self, *, wait: bool) -> None:
        """Take no more; *wait* for what runs."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    async def _run(self, call: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        # Given back when the thread is free, which is later than now where this task is cancelled.
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(future)
