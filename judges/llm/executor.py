"""Runs a judge that asks models: an Executor whose calls are in flight together, on a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Self

import msgspec

from gateway.config import Config, JudgeConfig
from gateway.config.secrets import read_upstream_secrets
from gateway.config.trust import route_refusal
from gateway.errors import ConfigError
from gateway.traces.types import Trace
from judges.errors import JudgeFileError
from judges.llm.asking import Model, NoReplyError
from judges.llm.clients import ModelClients
from judges.llm.detail import Detail
from judges.llm.fence import MAX_SHOWN_CHARS, TooLongError
from judges.llm.judging import Asked, Judging, Ledger, by_embedding, by_jury, by_pair, by_rubric
from judges.llm.source import RubricSource
from judges.llm.stable import StableAnswers, stable_answers
from judges.sandbox import IMPORT_WITHIN_S
from judges.trace import judged_trace
from judges.wire import Answer, Task

AHEAD = 4  # times `limits.concurrent` answers may wait for a slow one before them
CLOSE_WITHIN_S = 5.0
_STOP_CHECK_S = 0.2


class ModelExecutor:
    """Asks at most `limits.concurrent` questions at a time, each trace's one after another."""

    def __init__(self, config: Config, judge: JudgeConfig, source: RubricSource) -> None:
        self._config = config
        self._judge = judge
        self._source = source
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._models: list[Model] = []
        self._judging: Judging | None = None
        self._stable: StableAnswers | None = None
        self._open = contextlib.ExitStack()

    @property
    def parameters(self) -> tuple[str, ...]:
        """What it is shown of a trace."""
        return ("trace", "feedback", *(("session",) if self._judge.of == "session" else ()))

    def start(self, within_s: float = IMPORT_WITHIN_S) -> None:  # noqa: ARG002 -- nothing of a user's is imported
        """Read rubric and keys. Raises JudgeFileError for a rubric, a key or an upstream that cannot be used.

        Asks nobody: an upstream that is down now may be up when there is something to judge.
        """
        if self._judging is not None:
            return
        judge, source = self._judge, self._source
        models = [Model(self._clients(member.upstream, member.model)) for member in judge.asked]
        if judge.kind == "embedding":
            judging = by_embedding(models[0], judge.against, judge.threshold)
        elif judge.kind == "jury":
            judging = by_jury(models, source.rubric)
        elif judge.kind == "pairwise":
            judging = by_pair(models[0], source.rubric, judge.against)
        else:
            judging = by_rubric(models[0], source.rubric)
        self._models, self._judging = models, judging
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"asking-{judge.name}", daemon=True
        )
        self._thread.start()

    def judge(self, tasks: Iterable[Task], stop: Callable[[], bool] = lambda: False) -> Iterator[Answer]:
        """An answer for each task, in order; fewer only when *stop* says so. Tasks are drawn as needed.

        Raises JudgeUpstreamError where no trace could be judged, StoreError from looking up stable answers.
        """
        self.start()
        assert self._loop is not None
        most = self._judge.limits.concurrent
        waiting: deque[Future[Answer]] = deque()
        source = iter(tasks)
        drawn_all = False
        try:
            while not stop():
                while not drawn_all and len(waiting) < AHEAD * most and _has_place(waiting, most):
                    task = next(source, None)
                    if task is None:
                        drawn_all = True
                        break
                    waiting.append(
                        asyncio.run_coroutine_threadsafe(self._answer(task, self._find(task)), self._loop)
                    )
                if not waiting:
                    return
                if waiting[0].done():
                    yield waiting.popleft().result()
                else:
                    unfinished = [each for each in waiting if not each.done()]
                    wait(unfinished, _STOP_CHECK_S, return_when=FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def close(self) -> None:
        """End what is under way, and the connections."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._end(), loop).result(CLOSE_WITHIN_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_WITHIN_S)
            if not thread.is_alive():
                loop.close()
        self._loop = self._thread = self._judging = self._stable = None
        self._models = []
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for model in self._models:
            await model.close()

    async def _answer(self, task: Task, stable: Trace | None) -> Answer:
        """The verdict on one trace, within the judge's bound. Raises JudgeUpstreamError."""
        assert self._judging is not None
        started = time.perf_counter()
        ledger = Ledger()
        detail = Detail()
        score: float | None = None
        reason = task.why_unreadable or self._why_not_shown(task) or ""
        try:
            if not reason:
                trace = judged_trace(task.trace, task.feedback)
                async with asyncio.timeout(self._judge.within_s):
                    asked = Asked(task=task, trace=trace, stable=stable)
                    (score, reason), detail = await self._judging(asked, ledger)
        except TimeoutError:
            reason = f"took longer than {self._judge.within_s:g} s; timeout_s raises the bound"
        except NoReplyError as error:
            reason = str(error)
        except TooLongError as error:
            reason = (
                f"its text of {error.chars} characters is more than {MAX_SHOWN_CHARS}, which a model is shown"
            )
        except (msgspec.DecodeError, UnicodeEncodeError):
            reason = "the trace's bodies are not JSON of text"
        return Answer(
            score=score,
            reason=reason,
            seconds=time.perf_counter() - started,
            detail="" if detail == Detail() else detail.encoded(),
            **ledger.taken(),
        )

    def _why_not_shown(self, task: Task) -> str | None:
        """Why text must not go to the judge's upstream; a session may have turns of several routes."""
        routes = dict.fromkeys([task.trace.route, *(turn.route for turn in task.session)])
        refusals = (route_refusal(self._config, self._judge, route) for route in routes)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def _find(self, task: Task) -> Trace | None:
        """What the stable variant answered, where the judge compares with that. Raises StoreError."""
        if self._judge.against != "stable" or self._judge.kind not in {"pairwise", "embedding"}:
            return None
        if task.why_unreadable is not None:
            return None
        if self._stable is None:
            self._stable = self._open.enter_context(stable_answers(self._config))
        return self._stable.to(task.trace, time.monotonic(), generated=task.generated)

    def _clients(self, upstream: str, model: str) -> ModelClients:
        entry = self._config.upstream(upstream)
        place = f"$.upstreams[{self._config.upstreams.index(entry)}]"
        try:
            secrets = read_upstream_secrets(entry, os.environ, place)
        except ConfigError as error:
            raise JudgeFileError(
                f"judge {self._judge.name!r} cannot ask upstream {upstream!r}: {error}"
            ) from error
        return ModelClients(entry, secrets, model, self._judge.within_s)


def _has_place(waiting: Collection[Future[Answer]], most: int) -> bool:
    """Whether another trace may be asked about: what failed for one would fail for all."""
    if sum(not each.done() for each in waiting) >= most:
        return False
    # Looked at after that: who was done in time for its place to count as free has its error by now.
    return all(not each.done() or each.exception() is None for each in waiting)
