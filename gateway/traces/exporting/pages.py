"""Reads the traces that are meant, newest first, in pieces of bounded size.

First what is known of them without their bodies, a page at a time; then the bodies of those that are wanted,
in batches whose bytes are asked for before they are read. New traces may arrive meanwhile: a page goes on
behind the last trace of the one before it, so that none is read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from gateway.traces.batches import cut
from gateway.traces.bodies.bodies import Bodies
from gateway.traces.exporting.selection import Found, Selection
from gateway.traces.types import Trace

PAGE_TRACES = 5_000  # known at a time, without their bodies
BATCH_TRACES = 500  # also: ids in one question, which travel in its URL
BATCH_BYTES = 16 << 20  # of stored bodies in memory at a time; a single larger trace is a batch of its own

_COLUMNS = ", ".join(Trace.__struct_fields__)
_END = datetime(2262, 1, 1)  # noqa: DTZ001 -- the store takes a time without a zone for UTC
# A session's later traces quote its former ones: where one was kept out of training, its session is.
_PAGE = """
SELECT trace_id, started_at, outcome, finish_reason,
       (client, session) IN (SELECT client, session FROM traces WHERE NOT training) AS withheld
FROM traces
WHERE {where} AND started_at <= {{before:DateTime64(6, 'UTC')}}
  AND (started_at, trace_id) < ({{before:DateTime64(6, 'UTC')}}, {{before_id:String}})
ORDER BY started_at DESC, trace_id DESC LIMIT {limit}
"""
_JUDGED = """
WITH page AS ({page})
SELECT p.trace_id AS trace_id, p.started_at AS started_at, p.outcome AS outcome,
       p.finish_reason AS finish_reason, p.withheld AS withheld, v.judged AS judged, v.score AS score
FROM page AS p LEFT JOIN (
    SELECT trace_id, true AS judged, argMax(tuple(score), judged_at).1 AS score FROM judgments
    WHERE judge = {{judge:String}} AND trace_id IN (SELECT trace_id FROM page) GROUP BY trace_id
) AS v ON v.trace_id = p.trace_id
ORDER BY p.started_at DESC, p.trace_id DESC
"""


class Reads(Protocol):
    """What reading needs of `gateway.traces.store.Store`."""

    @property
    def bodies(self) -> Bodies: ...

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]: ...


def count_traces(store: Reads, selection: Selection) -> int:
    """How many traces there are to look at. Raises StoreError, as everything here does."""
    where, parameters = selection.where()
    rows = store.query(f"SELECT count() AS n FROM traces WHERE {where}", parameters)  # noqa: S608 -- our names
    return int(rows[0]["n"])


def pages(store: Reads, selection: Selection) -> Iterator[list[Found]]:
    """What the store's columns let through, newest first; the other conditions are not looked at."""
    where, parameters = selection.where()
    page = _PAGE.format(where=where, limit=PAGE_TRACES)
    if selection.judge is not None:
        page = _JUDGED.format(page=page)
        parameters["judge"] = selection.judge
    before: tuple[datetime, str] = (_END, "")
    while True:
        rows = store.query(page, {**parameters, "before": before[0], "before_id": before[1]})
        found = [msgspec.convert(row, Found, strict=False) for row in rows]
        if found:
            yield found
            before = (found[-1].started_at, found[-1].trace_id)
        if len(found) < PAGE_TRACES:
            return


def batches(
    store: Reads, selection: Selection, wanted: Sequence[Found], audit: Callable[[Sequence[str]], None]
) -> Iterator[list[tuple[Found, Trace | None]]]:
    """*wanted*, at most BATCH_TRACES, with their rows, in order; None for a row that has gone meanwhile.

    *audit* is told the ids of a batch before its bodies are read.
    """
    sized = list(zip(wanted, _sizes(store, selection, wanted), strict=True))
    for batch in cut(sized, most_bytes=BATCH_BYTES):
        audit([found.trace_id for found in batch])
        rows = {row.trace_id: row for row in _read(store, selection, batch)}
        yield [(found, rows.get(found.trace_id)) for found in batch]


def _sizes(store: Reads, selection: Selection, asked: Sequence[Found]) -> list[int]:
    size = "ifNull(length(request), 0) + ifNull(length(response), 0)"
    rows = _ask(store, f"trace_id, {size} AS bytes", selection, asked)
    sizes = {row["trace_id"]: int(row["bytes"]) for row in rows}
    return [sizes.get(found.trace_id, 0) for found in asked]


def _read(store: Reads, selection: Selection, asked: Sequence[Found]) -> list[Trace]:
    """The rows of *asked*, with their bodies as they were captured."""
    rows = _ask(store, _COLUMNS, selection, asked)
    return [store.bodies.lenient_trace(msgspec.convert(row, Trace, strict=False)) for row in rows]


def _ask(store: Reads, columns: str, selection: Selection, asked: Sequence[Found]) -> list[dict[str, Any]]:
    where, parameters = selection.where()  # again, as it leads to the few places where these rows lie
    return store.query(
        f"SELECT {columns} FROM traces WHERE {where} AND trace_id IN {{ids:Array(String)}} "  # noqa: S608
        "AND started_at BETWEEN {oldest:DateTime64(6, 'UTC')} AND {newest:DateTime64(6, 'UTC')}",
        {
            **parameters,
            "ids": [found.trace_id for found in asked],
            "oldest": min(found.started_at for found in asked),
            "newest": max(found.started_at for found in asked),
        },
    )
