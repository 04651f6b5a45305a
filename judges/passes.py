"""One pass of a judge over some traces: out of the store, through the worker, and the judgments back."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gateway.config import JudgeConfig
from gateway.traces.batches import parts_of
from gateway.traces.bodies.bodies import Bodies, Owner, detail_place, reason_place
from gateway.traces.delivery import IDS_PER_QUERY
from gateway.traces.markers import ERASED_REASON
from gateway.traces.store import Store
from gateway.traces.types import Judgment, Trace
from judges.definition import Definition
from judges.errors import JudgeError
from judges.evaluate import judgment_of
from judges.executor import Executor
from judges.load import JudgeSource, takes
from judges.pending import JudgeVersion
from judges.rows import load_tasks
from judges.wire import Task

FLUSH_S = (
    1.0  # a judgment is stored this long after it was given, or after the next one where that takes longer
)
FLUSH_ROWS = 1000


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
    return JudgeVersion(
        judge=settings.name,
        version=definition.version,
        routes=tuple(settings.routes or ()),
        later_after_s=settings.session_idle_s
        if isinstance(definition, JudgeSource) and takes(definition, "later")
        else None,
    )


def judge_traces(
    store: Store,
    executor: Executor,
    judge: JudgeVersion,
    trace_ids: Sequence[str],
    *,
    stop: Callable[[], bool],
    within_s: float = float("inf"),
    stored: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Judge *trace_ids* and store the judgments; *stored* is told after each insert.

    Takes up no more traces after *within_s*; leaves at once when *stop* says so, with what was judged by then
    stored. Raises StoreError and JudgeError: what is not stored then is still pending.
    """
    executor.start()
    until = time.monotonic() + within_s
    under_way: deque[Task] = deque()

    def tasks() -> Iterator[Task]:
        wanted = executor.parameters
        for task in load_tasks(store, trace_ids, sessions="session" in wanted, later="later" in wanted):
            if time.monotonic() > until:
                return
            under_way.append(task)
            yield task

    done = Tally()
    rows: list[Judgment] = []
    flushed_at = time.monotonic()
    try:
        for answer in executor.judge(tasks(), stop):
            task = under_way.popleft()
            judgment = judgment_of(judge.judge, judge.version, task.trace, task.feedback_seen, answer)
            rows.append(_sealed(judgment, task.trace, store.bodies))
            if len(rows) >= FLUSH_ROWS or time.monotonic() - flushed_at >= FLUSH_S:
                done += _store(store, rows, stored)
                rows, flushed_at = [], time.monotonic()
    except JudgeError:
        _store(store, rows, stored)  # they may have been paid for
        raise
    return done + _store(store, rows, stored)


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


def _store(store: Store, rows: list[Judgment], stored: Callable[[Tally], None]) -> Tally:
    rows = _of_stored_traces(store, rows)
    # The token makes one insert safe to repeat. A second verdict on the same traces is another insert.
    store.insert("judgments", rows, token=uuid.uuid4().hex)
    judged = sum(row.score is not None for row in rows)
    tally = Tally(judged, len(rows) - judged)
    stored(tally)
    return tally


def _of_stored_traces(store: Store, rows: list[Judgment]) -> list[Judgment]:
    """Those of *rows* whose trace was not erased while it was judged: a reason may quote it."""
    found: set[str] = set()
    for part in parts_of(rows, IDS_PER_QUERY):
        ids = [row.trace_id for row in part]
        there = store.query("SELECT trace_id FROM traces WHERE trace_id IN {ids:Array(String)}", {"ids": ids})
        found |= {row["trace_id"] for row in there}
    return [row for row in rows if row.trace_id in found]
