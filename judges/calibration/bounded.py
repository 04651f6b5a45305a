"""A judge within its limits while it is calibrated: asking to measure costs what asking to judge costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from judges.budget import Budget
from judges.errors import JudgeError
from judges.executor import Executor
from judges.wire import Answer, Task


class SpentError(JudgeError):
    """The money of the day is spent before a judge was measured. The message says what is to be done."""


class Bounded:
    """Asks *executor* no faster and for no more than *budget* has, and counts in it what answers cost."""

    def __init__(self, executor: Executor, budget: Budget) -> None:
        self.parameters = executor.parameters
        self._executor = executor
        self._budget = budget
        self.spent_usd = 0.0  # on all that was asked through it

    def judge(self, tasks: Iterable[Task]) -> Iterator[Answer]:
        """An answer for each task, in order. Raises SpentError where the day's money does not last."""
        for answer in self._executor.judge(self._in_turn(tasks)):
            self._budget.charge(answer.cost_usd)
            self.spent_usd += answer.cost_usd or 0.0
            yield answer

    def _in_turn(self, tasks: Iterable[Task]) -> Iterator[Task]:
        for task in tasks:
            while not self._budget.exhausted() and (wait_s := self._budget.wait_s()) > 0:
                time.sleep(wait_s)
            if self._budget.exhausted():
                raise SpentError(
                    f"nothing was measured, after asking for {self.spent_usd:.4g} USD: {self._budget.told()}"
                )
            yield task
