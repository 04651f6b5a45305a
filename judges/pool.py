"""Several executors of one judge as one: traces are judged at the same time, and answered in order.

Each has a thread of its own, which alone touches it. Tasks are drawn, and answers given, in the thread that
asks: whoever hangs holds up the answers behind its own until its time is over, and at most so many of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from judges.sandbox import IMPORT_WITHIN_S
from judges.wire import Answer, Task

IN_FLIGHT_EACH = 64  # tasks for each executor that are drawn and whose answers are not given yet
IN_FLIGHT_BYTES = 64 * 1024 * 1024  # of their bodies, all together; a single larger one goes alone
_STOP_CHECK_S = 0.2


class Seat(Protocol):
    """One of several: as an Executor, and with tasks that may be None: nothing at the moment."""

    @property
    def parameters(self) -> tuple[str, ...]: ...

    def start(self, within_s: float = IMPORT_WITHIN_S, stop: Callable[[], bool] = lambda: False) -> None: ...

    def judge(
        self, tasks: Iterable[Task | None], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]: ...

    def close(self) -> None: ...


class Pool:
    """An Executor over *seats*, at least one. Not thread-safe: one thread owns it.

    Only the first is started at once; each of the others when there is work for it.
    """

    def __init__(self, seats: Sequence[Seat]) -> None:
        self._seats = list(seats)

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the judge takes; known once it is started."""
        return self._seats[0].parameters

    def start(self, within_s: float = IMPORT_WITHIN_S) -> None:
        """Import the judge, once. Raises JudgeFileError, JudgeWorkerError."""
        self._seats[0].start(within_s)

    def judge(self, tasks: Iterable[Task], stop: Callable[[], bool] = lambda: False) -> Iterator[Answer]:
        """An answer for each task, in order; fewer only when *stop* says so. Tasks are drawn as needed.

        Raises what a seat raised: JudgeFileError, JudgeWorkerError.
        """
        self.start()
        under_way = _UnderWay(IN_FLIGHT_EACH * len(self._seats))
        threads = [
            threading.Thread(target=under_way.work, args=(seat,), name="judge-seat", daemon=True)
            for seat in self._seats
        ]
        source = iter(tasks)
        more = True
        for thread in threads:
            thread.start()
        try:
            while not stop():
                answer = under_way.next_answer(0 if more and under_way.has_room() else _STOP_CHECK_S)
                if answer is not None:
                    yield answer
                elif more and under_way.has_room():
                    task = next(source, None)
                    more = task is not None
                    if task is not None:
                        under_way.add(task)
                elif not more and under_way.empty():
                    return
        finally:
            under_way.end()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """End all of them and everything they started."""
        for seat in self._seats:
            seat.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _UnderWay:
    """Tasks that no seat has taken yet, and answers that wait for those before them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._free: deque[tuple[int, Task]] = deque()  # no seat has taken them yet
        self._sizes: deque[int] = deque()  # of all that are under way, in order
        self._bytes = 0
        self._answers: dict[int, Answer] = {}
        self._drawn = 0
        self._given = 0
        self._ended = False
        self._failure: BaseException | None = None

    def has_room(self) -> bool:
        """Whether another task may be drawn."""
        return not self._sizes or (len(self._sizes) < self._most and self._bytes < IN_FLIGHT_BYTES)

    def empty(self) -> bool:
        return not self._sizes

    def add(self, task: Task) -> None:
        size = task.size
        with self._changed:
            self._free.append((self._drawn, task))
            self._drawn += 1
            self._sizes.append(size)
            self._bytes += size
            self._changed.notify_all()

    def next_answer(self, wait_s: float) -> Answer | None:
        """The answer whose turn it is; None while there is none. Raises what a seat's thread raised."""
        with self._changed:
            if wait_s and self._sizes:
                self._changed.wait_for(lambda: self._given in self._answers or self._failure, wait_s)
            if self._failure is not None:
                raise self._failure
            answer = self._answers.pop(self._given, None)
            if answer is not None:
                self._given += 1
                self._bytes -= self._sizes.popleft()
            return answer

    def end(self) -> None:
        """The seats' threads return soon after."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def work(self, seat: Seat) -> None:
        """What a seat's thread does."""
        mine: deque[int] = deque()  # numbers of the tasks that this seat has taken and not answered
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._free or self._ended)
            seat.start(stop=lambda: self._ended)  # a task that it took before would wait for that
            for answer in seat.judge(self._take(mine), lambda: self._ended):
                with self._changed:
                    number = mine.popleft()
                    self._answers[number] = answer
                    if number == self._given:
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that asks
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self, mine: deque[int]) -> Iterator[Task | None]:
        while True:
            with self._changed:
                if not mine:
                    self._changed.wait_for(lambda: self._free or self._ended)
                if self._ended:
                    return
                taken = self._free.popleft() if self._free else None
                if taken is not None:
                    mine.append(taken[0])
            yield None if taken is None else taken[1]
