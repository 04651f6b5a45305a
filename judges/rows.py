"""Brings traces out of the store as tasks for a judge, in batches bounded by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from gateway.traces.batches import cut
from gateway.traces.feedback import IN_FORCE_SQL
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Trace
from judges.pending import ANSWERED_SQL, MAX_FEEDBACK, MAX_LATER_TRACES
from judges.wire import Task

BATCH_BYTES = 32 * 1024 * 1024  # of bodies in memory at a time; a single larger trace is a batch of its own
BATCH_TRACES = 2000  # also: ids in one question, which travel in its URL
FIRST_BATCH_TRACES = 100
SESSION_BATCH_TRACES = 20  # where each brings its session along
MAX_SESSION_TRACES = 100  # the latest of a session; what lies before them is not shown to a judge
BETWEEN_SQL = "started_at BETWEEN {first:DateTime64(6, 'UTC')} AND {last:DateTime64(6, 'UTC')}"
_COLUMNS = ", ".join(Trace.__struct_fields__)
_BYTES = "ifNull(length(r.request), 0) + ifNull(length(r.response), 0)"
_SMALL_COLUMNS = ", ".join(
    [
        f"{_BYTES} AS bytes",
        *(
            f"if({_BYTES} <= {{share:UInt64}}, r.{name}, NULL) AS {name}"
            if name in {"request", "response"}
            else f"r.{name} AS {name}"
            for name in Trace.__struct_fields__
        ),
    ]
)


class Said(NamedTuple):
    """What is in force on a trace, and how many rows of feedback it has in all."""

    in_force: list[Feedback]
    rows: int


NOTHING = Said([], 0)


class Known(NamedTuple):
    """What is known of traces before they are loaded, so that the store need not look everywhere.

    They started from *first* to *last*; on *quiet* ones nothing was said when they were looked for. What was
    said since then makes them pending again.
    """

    first: datetime
    last: datetime
    quiet: frozenset[str] = frozenset()


def load_tasks(
    store: Store,
    trace_ids: Sequence[str],
    *,
    sessions: bool,
    later: bool = False,
    known: Known | None = None,
) -> Iterator[Task]:
    """A task for each of *trace_ids* that the store has, in that order.

    With the turns of its session before it where *sessions* says so, and those after it where *later* does.
    Raises StoreError.
    """
    where, bounds = "trace_id IN {ids:Array(String)}", dict[str, Any]()
    quiet = frozenset[str]()
    if known is not None:
        where = f"{where} AND {BETWEEN_SQL}"
        bounds = {"first": known.first, "last": known.last}
        quiet = known.quiet
    most = SESSION_BATCH_TRACES if sessions or later else BATCH_TRACES
    for batch, rows in _loaded(store, trace_ids, where, bounds, most):
        told = [trace_id for trace_id in batch if trace_id not in quiet]
        feedback = feedback_on(store, told) if told else {}
        earlier = _sessions(store, list(rows.values())) if sessions else {}
        after = _later(store, list(rows)) if later else {}
        for trace_id in batch:
            if trace_id in rows:
                # One at a time: what is stored may be a small part of what it holds.
                yield Task(
                    trace=store.bodies.lenient_trace(rows[trace_id]),
                    feedback=feedback.get(trace_id, NOTHING).in_force,
                    session=[store.bodies.lenient_trace(turn) for turn in earlier.get(trace_id, [])],
                    later=[store.bodies.lenient_trace(turn) for turn in after.get(trace_id, [])],
                    feedback_seen=feedback.get(trace_id, NOTHING).rows + len(after.get(trace_id, [])),
                )


def _loaded(
    store: Store, trace_ids: Sequence[str], where: str, bounds: dict[str, Any], most: int
) -> Iterator[tuple[list[str], dict[str, Trace]]]:
    """*trace_ids* in batches of at most *most*, with the rows of each that the store has.

    Bodies that might be more than their share of BATCH_BYTES are fetched on their own, once it is known how
    large they are.
    """
    share = BATCH_BYTES // most
    for asked in _growing(trace_ids, most):
        found = store.query(
            f"SELECT {_SMALL_COLUMNS} FROM traces AS r WHERE {where}",  # noqa: S608 -- constants
            bounds | {"ids": asked, "share": share},
        )
        sizes = {row["trace_id"]: int(row.pop("bytes")) for row in found}
        rows = {row["trace_id"]: msgspec.convert(row, Trace, strict=False) for row in found}
        sized = [(trace_id, sizes.get(trace_id, 0)) for trace_id in asked]
        for batch in cut(sized, most_bytes=BATCH_BYTES):
            large = [trace_id for trace_id in batch if sizes.get(trace_id, 0) > share]
            if large:
                rows |= {row.trace_id: row for row in stored_traces(store, where, bounds | {"ids": large})}
            yield batch, rows
            for trace_id in batch:
                rows.pop(trace_id, None)


def _growing(trace_ids: Sequence[str], most: int) -> Iterator[list[str]]:
    """*trace_ids* in parts, the first ones small: who is slow to judge them may want no more."""
    size, start = min(FIRST_BATCH_TRACES, most), 0
    while start < len(trace_ids):
        yield list(trace_ids[start : start + size])
        start += size
        size = min(4 * size, most)


def stored_traces(store: Store, where: str, parameters: dict[str, Any]) -> list[Trace]:
    """Rows of `traces`, bodies as they are stored. Raises StoreError."""
    rows = store.query(f"SELECT {_COLUMNS} FROM traces WHERE {where}", parameters)  # noqa: S608 -- constants
    return [msgspec.convert(row, Trace, strict=False) for row in rows]


def feedback_on(store: Store, trace_ids: Sequence[str]) -> dict[str, Said]:
    """What was said of each of *trace_ids*, at most BATCH_TRACES of them; none where nothing was.

    Raises StoreError.
    """
    rows = store.query(
        f"WITH scope AS (SELECT arrayJoin({{ids:Array(String)}}) AS trace_id) SELECT * FROM ({IN_FORCE_SQL}) "  # noqa: S608
        f"ORDER BY created_at DESC, feedback_id DESC LIMIT {MAX_FEEDBACK} BY trace_id",
        {"ids": list(trace_ids)},
    )
    said = store.bodies.feedbacks([msgspec.convert(row, Feedback, strict=False) for row in rows])
    found: dict[str, Said] = {}
    for row, readable in zip(rows, said, strict=True):
        found.setdefault(row["trace_id"], Said([], int(row["said"]))).in_force.append(readable)
    return found


def _sessions(store: Store, traces: list[Trace]) -> dict[str, list[Trace]]:
    """For each of *traces* the answered traces of its session before it, oldest first."""
    rows = stored_traces(
        store,
        "(client, session) IN (SELECT client, session FROM traces WHERE trace_id IN {ids:Array(String)}) "  # noqa: S608
        f"AND {ANSWERED_SQL} ORDER BY started_at DESC, trace_id DESC "
        f"LIMIT {MAX_SESSION_TRACES} BY client, session",
        {"ids": [trace.trace_id for trace in traces]},
    )
    turns: dict[tuple[str, str], list[Trace]] = {}
    for row in reversed(rows):
        turns.setdefault((row.client, row.session), []).append(row)
    return {
        trace.trace_id: [
            turn
            for turn in turns.get((trace.client, trace.session), [])
            if (turn.started_at, turn.trace_id) < (trace.started_at, trace.trace_id)
        ]
        for trace in traces
    }


def _later(store: Store, trace_ids: list[str]) -> dict[str, list[Trace]]:
    """For each of *trace_ids* the next answered traces of its session, oldest first."""
    rows = store.query(
        "WITH asked AS (SELECT trace_id AS id, client AS of, session AS within, started_at AS since "  # noqa: S608
        "FROM traces WHERE trace_id IN {ids:Array(String)}) "
        f"SELECT id, {_COLUMNS} FROM traces INNER JOIN asked ON client = of AND session = within "
        "WHERE session IN (SELECT within FROM asked) AND (started_at, trace_id) > (since, id) "
        f"AND {ANSWERED_SQL} ORDER BY started_at, trace_id LIMIT {MAX_LATER_TRACES} BY id",
        {"ids": trace_ids},
    )
    turns: dict[str, list[Trace]] = {}
    for row in rows:
        turns.setdefault(row.pop("id"), []).append(msgspec.convert(row, Trace, strict=False))
    return turns
