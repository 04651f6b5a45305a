"""Which feedback counts for a trace: one definition, in SQL and in Python.

Feedback belongs to a trace when it comes from the client of the trace and names the trace, or names its
session alone and was said when the trace had started. Of what belongs to a trace, the last one of each kind
is in force: the one with the latest `created_at`, of several with the same one that with the greatest
`feedback_id`. The order of arrival says nothing: rows travel by different ways, and some are known late.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.traces.types import Feedback, Trace

if TYPE_CHECKING:
    from gateway.traces.store import Store  # not loaded here: every judge's process imports this module

# All that was said of the traces in `scope`, a list of trace ids that the question begins with. `trace_id` is
# the trace's, also where only its session was named.
SAID_SQL = """
    SELECT t.trace_id AS trace_id, f.feedback_id AS feedback_id, f.session AS session, f.client AS client,
           f.kind AS kind, f.value AS value, f.text AS text, f.created_at AS created_at,
           f.imported_by AS imported_by
    FROM (SELECT trace_id, client FROM traces WHERE trace_id IN scope) AS t
    INNER JOIN (SELECT * FROM feedback WHERE trace_id IN scope) AS f
    ON f.trace_id = t.trace_id AND f.client = t.client
    UNION ALL
    SELECT t.trace_id, f.feedback_id, f.session, f.client, f.kind, f.value, f.text, f.created_at,
           f.imported_by
    FROM (SELECT trace_id, client, session, started_at FROM traces WHERE trace_id IN scope) AS t
    INNER JOIN (
        SELECT * FROM feedback
        WHERE trace_id IS NULL AND session IN (SELECT session FROM traces WHERE trace_id IN scope)
    ) AS f
    ON f.session = t.session AND f.client = t.client
    WHERE f.created_at >= t.started_at
"""
# What is in force of that, the latest first, and how much was said of the trace in all.
IN_FORCE_SQL = f"""
    SELECT *, uniqExact(feedback_id) OVER (PARTITION BY trace_id) AS said FROM ({SAID_SQL})
    ORDER BY created_at DESC, feedback_id DESC LIMIT 1 BY trace_id, kind
"""  # noqa: S608 -- built of constants
_OF_TRACE = f"""
    SELECT {", ".join(Feedback.__struct_fields__)} FROM feedback
    WHERE trace_id = {{id:String}}
       OR (trace_id IS NULL AND session = {{session:String}} AND client = {{client:String}})
"""  # noqa: S608 -- names of our own columns
IN_FORCE, REPLACED, ANOTHER_CLIENTS = (
    "in force",
    "replaced by a later one",
    "another client's: counts for nothing",
)


def belongs(entry: Feedback, trace: Trace) -> bool:
    """Whether *entry* was said of *trace*, by who may say so."""
    if entry.client != trace.client:
        return False
    if entry.trace_id is not None:
        return entry.trace_id == trace.trace_id
    return entry.session == trace.session and entry.created_at >= trace.started_at


def in_force(said: Iterable[Feedback]) -> list[Feedback]:
    """The last of each kind among *said*, all of which belongs to one trace; oldest first."""
    ordered = sorted(said, key=lambda entry: (entry.created_at, entry.feedback_id))
    last = {entry.kind: entry for entry in ordered}
    return [entry for entry in ordered if entry is last[entry.kind]]


def standings(store: Store, trace: dict[str, Any]) -> list[dict[str, Any]]:
    """What names *trace* (a row) or its session, oldest first, each row with its `standing`.

    A session of the same name of another client is another session: what was said of it is not among them.
    Raises StoreError.
    """
    asked = {"id": trace["trace_id"], "session": trace["session"], "client": trace["client"]}
    rows = [msgspec.convert(row, Feedback) for row in store.query(_OF_TRACE, asked)]
    about = msgspec.convert(trace, Trace)
    counting = [row for row in rows if belongs(row, about)]
    standing = dict.fromkeys((row.feedback_id for row in counting), REPLACED)
    standing |= dict.fromkeys((row.feedback_id for row in in_force(counting)), IN_FORCE)
    standing |= {row.feedback_id: ANOTHER_CLIENTS for row in rows if row.client != about.client}
    rows.sort(key=lambda row: (row.created_at, row.feedback_id))
    return [
        {**msgspec.structs.asdict(row), "standing": standing[row.feedback_id]}
        for row in rows
        if row.feedback_id in standing
    ]
