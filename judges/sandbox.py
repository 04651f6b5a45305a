"""Judges traces in a worker process that may crash, hang or leak without taking anything along."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from judges.errors import JudgeFileError, JudgeWorkerError
from judges.load import JudgeSource
from judges.process import WorkerGoneError, WorkerProcess
from judges.wire import Answer, Ready, Refused, Setup, Task

IMPORT_WITHIN_S = 120.0  # torch takes tens of seconds on a busy machine
IN_FLIGHT = 32  # tasks on their way to the worker of a fast judge, so that it never waits for us
_FAST_S = 0.01  # a judge slower than this has one in flight: a second worker may be free for the next
_STOP_CHECK_S = 0.2


class Sandbox:
    """One judge in one worker process, replaced when it has to be. Not thread-safe: one thread owns it."""

    def __init__(
        self, source: JudgeSource, *, timeout_s: float, memory_mb: int, show_output: bool = False
    ) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._memory_bytes = memory_mb << 20
        self._show_output = show_output
        self._process: WorkerProcess | None = None
        self._parameters: tuple[str, ...] = ()
        self._waiting: deque[Task] = deque()  # drawn and without an answer, oldest first

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the judge takes; known once it is started."""
        return self._parameters

    def start(self, within_s: float = IMPORT_WITHIN_S, stop: Callable[[], bool] = lambda: False) -> None:
        """Import the judge. Raises JudgeFileError when its file is at fault, JudgeWorkerError when we are.

        A file that takes longer than *within_s* is at fault. Where *stop* says so, nothing is started.
        """
        if self._process is not None:
            return
        process = WorkerProcess(show_output=self._show_output)
        process.send(Setup(judge=self._source, memory_bytes=self._memory_bytes))
        until = time.monotonic() + within_s
        reply = None
        try:
            while reply is None and (left_s := until - time.monotonic()) > 0:
                if stop():
                    process.close()
                    return
                reply = process.receive(min(left_s, _STOP_CHECK_S))
        except WorkerGoneError as error:
            raise JudgeFileError(
                f"{self._source.file}: {error} while it was imported; move that work into the function"
            ) from error
        except BaseException:
            process.close()
            raise
        if isinstance(reply, Ready):
            self._parameters = reply.parameters
            self._process = process
            return
        process.close()
        if isinstance(reply, Refused):
            raise JudgeFileError(reply.message)
        if reply is None:
            raise JudgeFileError(
                f"{self._source.file}: not imported after {within_s:g} s; move slow work into the function"
            )
        raise JudgeWorkerError(f"{self._source.file}: the judge's process answered before it was asked")

    def judge(
        self, tasks: Iterable[Task | None], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """An answer for each task, in order; fewer only when *stop* says so. Tasks are drawn as needed.

        None in place of a task: there is none at the moment, while others wait for their answers.
        """
        if self._waiting:
            self.close()  # somebody left before the end: the answers under way are nobody's
        self._waiting.clear()
        source = iter(tasks)
        sent = 0  # of those waiting; the first of them is being judged
        ahead = 1  # until the judge has shown that it is fast
        asked_at = time.monotonic()
        while not stop():
            while len(self._waiting) < ahead and (task := next(source, None)) is not None:
                self._waiting.append(task)
            if not self._waiting:
                return
            if self._process is None:
                self.start(stop=stop)
                sent = 0
            if self._process is None:
                return  # told to stop meanwhile
            if sent == 0:
                asked_at = time.monotonic()  # drawing tasks may have taken a while: not the judge's time
            for task in islice(self._waiting, sent, None):
                self._process.send(task)
            sent = len(self._waiting)
            answer = self._next_answer(self._process, asked_at)
            if answer is None:
                continue
            self._waiting.popleft()
            sent -= 1
            ahead = IN_FLIGHT if answer.seconds < _FAST_S else 1
            yield answer
            asked_at = time.monotonic()

    def close(self) -> None:
        """End the worker and everything it started."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_answer(self, process: WorkerProcess, asked_at: float) -> Answer | None:
        """The answer of the task asked at *asked_at*; None while it has time left. Ends a spent worker."""
        left_s = asked_at + self._timeout_s - time.monotonic()
        try:
            reply = process.receive(max(0.0, min(left_s, _STOP_CHECK_S)))
        except WorkerGoneError as error:
            self.close()
            return Answer(score=None, reason=str(error), seconds=time.monotonic() - asked_at)
        if reply is None and left_s > _STOP_CHECK_S:
            return None
        if isinstance(reply, Answer):
            if reply.spent:
                self.close()
            return reply
        self.close()
        reason = (
            f"took longer than {self._timeout_s:g} s; timeout_s raises the bound"
            if reply is None
            else "wrote over the answers of its process"
        )
        return Answer(score=None, reason=reason, seconds=time.monotonic() - asked_at)
