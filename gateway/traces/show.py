"""One trace with all that is known of it: its bodies, its judgments, what was said of it."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import OperationError
from gateway.traces.bodies import Bodies, place_of, reason_place
from gateway.traces.body_reads import Reader, record_read
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
    parameters = {"id": trace_id}
    found = store.query("SELECT * FROM traces WHERE trace_id = {id:String} LIMIT 1", parameters)
    if not found:
        raise OperationError(
            f"no trace {trace_id!r} in the store; `tracetune traces tail` lists the last ones"
        )
    record_read(store, reader, "show", [trace_id])
    judgments = store.query(
        "SELECT judge, version, score, reason, judged_at FROM judgments "
        "WHERE trace_id = {id:String} ORDER BY judge, judged_at",
        parameters,
    )
    feedback = store.query(
        "SELECT feedback_id, trace_id, session, client, kind, value, text, created_at FROM feedback "
        "WHERE trace_id = {id:String} OR (trace_id IS NULL AND session = {session:String}) "
        "ORDER BY created_at",
        {**parameters, "session": found[0]["session"]},
    )
    _make_readable(store.bodies, found[0], judgments, feedback)
    return Shown(trace=found[0], judgments=judgments, feedback=feedback)


def _make_readable(
    bodies: Bodies, trace: dict[str, Any], judgments: list[dict[str, Any]], feedback: list[dict[str, Any]]
) -> None:
    """Put readable texts in place of those stored. Raises OperationError for one that is damaged."""
    for column in ("request", "response"):
        if trace[column] is not None:
            trace[column] = bodies.text(trace[column], place_of("traces", column, trace["trace_id"]))
    for row in judgments:
        row["reason"] = bodies.text(row["reason"], reason_place(trace["trace_id"], row["judge"]))
    for row in feedback:
        if row["text"] is not None:
            row["text"] = bodies.text(row["text"], place_of("feedback", "text", row["feedback_id"]))
