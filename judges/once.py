"""Judges everything that is not judged yet, once: what `tracetune judge run` does."""

from __future__ import annotations

from collections.abc import Callable

from gateway.traces.store import Store
from judges.budget import Budget
from judges.executor import Executor
from judges.passes import Tally, judge_traces
from judges.pending import JudgeVersion, Window, count_pending, due, windows

PAGE_TRACES = 20_000  # ids alone: one question over a window is enough


def count_left(store: Store, judge: JudgeVersion) -> int:
    """How many traces *judge* has not judged; of sessions, all turns of those that are due.

    Raises StoreError.
    """
    found = windows(store, judge)
    if judge.session is not None and found:  # one may lie in several windows
        found = [Window(found[-1].start, found[0].end)]
    return sum(count_pending(store, judge, window) for window in found)


def judge_once(
    store: Store,
    executor: Executor,
    judge: JudgeVersion,
    *,
    stored: Callable[[Tally], None],
    budget: Budget | None = None,
) -> Tally:
    """Judge what is pending, the oldest first, and store it; *stored* is told after each insert.

    Ends early where *budget* is exhausted. Safe to interrupt and to repeat: what is not stored is still
    pending. Raises StoreError, JudgeError.
    """
    executor.start()
    done = Tally()
    for window in reversed(windows(store, judge)):
        while found := due(store, judge, window, limit=PAGE_TRACES):
            tally = judge_traces(
                store, executor, judge, found, stop=lambda: False, stored=stored, budget=budget
            )
            done += tally
            if budget is not None and budget.exhausted():
                return done
            if not tally.total:
                break  # they have gone from the store meanwhile
    return done
