"""What runs a judge: one protocol, whether it is Python in processes of ours, or a model that is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from gateway.config import Config, JudgeConfig
from judges.definition import Definition
from judges.llm.source import RubricSource
from judges.pool import Pool
from judges.ray_actors import ray_pool
from judges.sandbox import IMPORT_WITHIN_S, Sandbox
from judges.wire import Answer, Task


class Executor(Protocol):
    """Gives verdicts on traces. One thread owns it; `close` leaves nothing running."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Which of trace, session and feedback the judge takes; known once it is started."""
        ...

    def start(self, within_s: float = IMPORT_WITHIN_S) -> None:
        """Make ready to judge. Raises JudgeFileError, the judge's fault, or JudgeWorkerError, ours."""
        ...

    def judge(self, tasks: Iterable[Task], stop: Callable[[], bool] = lambda: False) -> Iterator[Answer]:
        """An answer for each task, in order; fewer only when *stop* says so.

        Tasks are drawn as needed, in the thread that asks for answers; drawing one may take a while.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def executor_of(
    config: Config,
    judge: JudgeConfig,
    definition: Definition,
    *,
    show_output: bool = False,
) -> Executor:
    """What runs *judge* with the bounds it has in *config*, not started yet.

    *show_output*: what the user's code prints goes to this process's own output; so it runs on this machine.
    Raises ConfigError, JudgeWorkerError.
    """
    if isinstance(definition, RubricSource):
        from judges.llm.executor import ModelExecutor  # its client takes a second to import

        return ModelExecutor(config, judge, definition)
    if config.judging.executor == "ray" and not show_output:
        return ray_pool(config, judge, definition)
    sandboxes = [
        Sandbox(definition, timeout_s=judge.within_s, memory_mb=judge.memory_mb, show_output=show_output)
        for _ in range(judge.limits.concurrent)
    ]
    return sandboxes[0] if len(sandboxes) == 1 else Pool(sandboxes)
