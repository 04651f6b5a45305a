"""How much of what can be judged a judge has judged, and with what mean score."""

from __future__ import annotations

import msgspec

from gateway.traces.store import Store
from judges.pending import JUDGEABLE_SQL, JudgeVersion


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over the store for one version of a judge. `mean` is over scores; None while there are none."""

    traces: int
    judged: int
    abstained: int
    mean: float | None


def coverage(store: Store, judge: JudgeVersion) -> Coverage:
    """Raises StoreError."""
    (row,) = store.query(
        f"WITH judgeable AS (SELECT trace_id FROM traces WHERE {JUDGEABLE_SQL}) "  # noqa: S608 -- as below
        "SELECT (SELECT count() FROM judgeable) AS traces, countIf(isNotNull(score)) AS judged, "
        "countIf(isNull(score)) AS abstained, avgOrNull(score) AS mean FROM judgments "
        "WHERE judge = {judge:String} AND version = {version:String} AND trace_id IN judgeable",
        judge.parameters(),
    )
    return msgspec.convert(row, Coverage)


def latest_traces(store: Store, judge: JudgeVersion, *, limit: int) -> list[str]:
    """Ids of the latest *limit* traces that *judge* could judge, the latest first.

    For a judge of sessions: of the last turns of the latest sessions. Raises StoreError.
    """
    one_each = "" if judge.session is None else "LIMIT 1 BY client, session"
    rows = store.query(
        f"SELECT trace_id FROM traces WHERE {JUDGEABLE_SQL} "  # noqa: S608 -- constants; values are parameters
        f"ORDER BY started_at DESC, trace_id DESC {one_each} LIMIT {int(limit)}",
        judge.parameters(),
    )
    return [row["trace_id"] for row in rows]
