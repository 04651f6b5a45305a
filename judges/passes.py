"""One pass of a judge over some traces: out of the store, through the worker, and the judgments back."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gateway.config import JudgeConfig
from gateway.config.judges import JudgeLimits
from gateway.traces.batches import parts_of
from gateway.traces.bodies.bodies import Bodies, Owner, detail_place, reason_place
from gateway.traces.markers import ERASED_REASON
from gateway.traces.store import Store
from gateway.traces.types import Judgment, Trace
from judges.budget import Budget
from judges.definition import Definition
from judges.errors import JudgeError
from judges.executor import Executor
from judges.load import JudgeSource, takes
from judges.pending import Due, JudgeVersion, SessionRule
from judges.rows import BATCH_TRACES, BETWEEN_SQL, Known
from judges.units import Unit, judgments_of, load_units
from judges.wire import Task

FLUSH_S = (
    1.0  # a judgment is stored this long after it was given, or after the next one where that takes longer
)
FLUSH_ROWS = 5000
_WAKE_S = 0.1  # a judge that waits for its turn looks this often whether it is to stop


class Tally(msgspec.Struct, frozen=True):
    """What a pass came to. `judged` counts scores only."""

    judged: int = 0
    abstained: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.judged + other.judged, self.abstained + other.abstained)

    @property
    def total(self) -> int:
        return self.judged + self.abstained


def version_of(settings: JudgeConfig, definition: Definition) -> JudgeVersion:
    """Whose judgments these are."""
    whole = settings.of == "session"
    after = isinstance(definition, JudgeSource) and takes(definition, "later")
    return JudgeVersion(
        judge=settings.name,
        version=definition.version,
        routes=tuple(settings.routes or ()),
        later_after_s=settings.session_idle_s if after else None,
        session=SessionRule(idle_s=settings.session_idle_s, credit=settings.credit) if whole else None,
    )


def judge_traces(
    store: Store,
    executor: Executor,
    judge: JudgeVersion,
    found: Sequence[Due],
    *,
    stop: Callable[[], bool],
    within_s: float = float("inf"),
    stored: Callable[[Tally], None] = lambda _: None,
    budget: Budget | None = None,
) -> Tally:
    """Judge what was *found* due, and store the judgments; *stored* is told after each insert.

    Takes up no more traces after *within_s*, or once *budget* is exhausted; leaves at once when *stop* says
    so, with what was judged by then stored. Raises StoreError and JudgeError: what is not stored then is
    still pending.
    """
    executor.start()
    until = time.monotonic() + within_s
    budget = budget or Budget(judge.judge, JudgeLimits())
    budget.sync(store)
    rows = _Rows(store, stored, budget)
    under_way: deque[Unit] = deque()

    def tasks() -> Iterator[Task]:
        trace_ids = [trace.trace_id for trace in found]
        for unit in load_units(store, judge, trace_ids, executor.parameters, known=_known(found)):
            if not _turn_comes(budget, rows, lambda: stop() or time.monotonic() > until):
                return
            under_way.append(unit)
            yield unit.task

    try:
        for answer in executor.judge(tasks(), stop):
            budget.charge(answer.cost_usd)
            for trace, judgment in judgments_of(judge, under_way.popleft(), answer):
                rows.add(_sealed(judgment, trace, store.bodies))
            rows.flush_when_due()
    except JudgeError:
        rows.flush()  # they may have been paid for
        raise
    rows.flush()
    return rows.done


def _known(found: Sequence[Due]) -> Known | None:
    if not found:
        return None
    started = [trace.started_at for trace in found]
    return Known(min(started), max(started), frozenset(trace.trace_id for trace in found if not trace.said))


def _turn_comes(budget: Budget, rows: _Rows, stop: Callable[[], bool]) -> bool:
    """Wait until another trace may be judged; False where none is to be any more."""
    while not stop() and not budget.exhausted():
        if (wait_s := budget.wait_s()) == 0:
            return True
        rows.flush_when_due()
        time.sleep(min(wait_s, _WAKE_S))
    return False


class _Rows:
    """Judgments on their way into the store. The rows of a session are of one insert."""

    def __init__(self, store: Store, stored: Callable[[Tally], None], budget: Budget) -> None:
        self._store = store
        self._stored = stored
        self._budget = budget
        self._rows: list[Judgment] = []
        self._flushed_at = time.monotonic()
        self.done = Tally()

    def add(self, row: Judgment) -> None:
        self._rows.append(row)

    def flush_when_due(self) -> None:
        if len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Raises StoreError."""
        rows, self._rows = _of_stored_traces(self._store, self._rows), []
        # The token makes one insert safe to repeat. A second verdict on the same traces is another insert.
        self._store.insert("judgments", rows, token=uuid.uuid4().hex)
        self._flushed_at = time.monotonic()
        if not rows:
            return
        judged = sum(row.score is not None for row in rows)
        tally = Tally(judged, len(rows) - judged)
        self.done += tally
        self._stored(tally)
        self._budget.sync(self._store)


def _sealed(judgment: Judgment, trace: Trace, bodies: Bodies) -> Judgment:
    """*judgment* as it is stored: reason and detail may quote the bodies, and are under the same key."""
    # Of what was erased nothing is quoted, and a new key would be made for it.
    if not bodies.encrypts or judgment.reason == ERASED_REASON:
        return judgment
    owner = Owner(trace.client, trace.subject, trace.session)
    texts = (
        ("reason", judgment.reason, reason_place(judgment.trace_id, judgment.judge)),
        ("detail", judgment.detail, detail_place(judgment.trace_id, judgment.judge)),
    )
    sealed = {name: bodies.seal(text, owner, place) for name, text, place in texts if text}
    return msgspec.structs.replace(judgment, **sealed)


def _of_stored_traces(store: Store, rows: list[Judgment]) -> list[Judgment]:
    """Those of *rows* whose trace was not erased while it was judged: a reason may quote it."""
    found: set[str] = set()
    for part in parts_of(rows, BATCH_TRACES):
        started = [row.started_at for row in part if row.started_at is not None]
        there = store.query(
            f"SELECT trace_id FROM traces WHERE trace_id IN {{ids:Array(String)}} AND {BETWEEN_SQL}",  # noqa: S608
            {"ids": [row.trace_id for row in part], "first": min(started), "last": max(started)},
        )
        found |= {row["trace_id"] for row in there}
    return [row for row in rows if row.trace_id in found]
