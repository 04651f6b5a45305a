"""One trace with all that is known of it: its bodies, its judgments, what was said of it."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import OperationError
from gateway.traces.bodies.bodies import Bodies, detail_place, place_of, reason_place
from gateway.traces.bodies.reads import Reader, record_read
from gateway.traces.feedback import standings
from gateway.traces.lookup import trace_by_id
from gateway.traces.store import Store


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Rows as the store has them, with readable bodies and texts."""

    trace: dict[str, Any]
    judgments: list[dict[str, Any]]
    feedback: list[dict[str, Any]]


def show_trace(store: Store, trace_id: str, reader: Reader) -> Shown:
    """The trace *trace_id*, put down as read by *reader* before it is given out.

    Raises OperationError for one that is not there, cannot be put down as read, or is damaged; StoreError.
    """
    found = trace_by_id(store, trace_id)
    if found is None:
        raise OperationError(
            f"no trace {trace_id!r} in the store; `tracetune traces tail` lists the last ones"
        )
    record_read(store, reader, "show", [trace_id])
    judgments = store.query(
        "SELECT judge, version, score, reason, judged_at, seconds, cost_usd, tokens_in, tokens_out, detail "
        "FROM judgments "
        "WHERE trace_id = {id:String} ORDER BY judge, judged_at",
        {"id": trace_id},
    )
    feedback = standings(store, found)
    _make_readable(store.bodies, found, judgments, feedback)
    return Shown(trace=found, judgments=judgments, feedback=feedback)


def _make_readable(
    bodies: Bodies, trace: dict[str, Any], judgments: list[dict[str, Any]], feedback: list[dict[str, Any]]
) -> None:
    """Put readable texts in place of those stored. Raises OperationError for one that is damaged."""
    for column in ("request", "response"):
        if trace[column] is not None:
            trace[column] = bodies.body(trace[column], place_of("traces", column, trace["trace_id"]))
    for row in judgments:
        row["reason"] = bodies.text(row["reason"], reason_place(trace["trace_id"], row["judge"]))
        row["detail"] = bodies.text(row["detail"], detail_place(trace["trace_id"], row["judge"]))
    for row in feedback:
        if row["text"] is not None:
            row["text"] = bodies.text(row["text"], place_of("feedback", "text", row["feedback_id"]))
