"""The last traces, and those that arrive: one short row each, without their bodies but for the question."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.traces.bodies.reads import Reader, record_read
from gateway.traces.encryption.sealing import PREFIX
from gateway.traces.store import Store

FOLLOW_EVERY_S = 1.0
# Rows of one insert become visible a little after their `stored_at`; this far back is looked at again.
FOLLOW_OVERLAP = timedelta(seconds=30)
MAX_FOLLOWED = 10_000
_QUESTION_CHARACTERS = 120
_TAIL = """
SELECT trace_id, started_at, stored_at, route, variant, model, outcome, status, stream, latency_ms, tokens_in,
       tokens_out, cost_usd, client, session,
       if(
           startsWith(ifNull(request, ''), {sealed:String}),
           '(encrypted; `tracetune traces show` reads it)',
           leftUTF8(JSONExtractString(ifNull(request, ''), 'messages', -1, 'content'), {characters:UInt16})
       ) AS question
FROM traces
WHERE ({route:String} = '' OR route = {route:String}) AND stored_at >= {since:DateTime64(3, 'UTC')}
ORDER BY started_at DESC
LIMIT {limit:UInt32}
"""


def tail_traces(
    store: Store,
    reader: Reader,
    *,
    route: str = "",
    count: int,
    follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """The last *count* rows of *route* ("": of any), the newest last; then those that arrive, each once.

    What is shown is put down as read by *reader* before it is given out. Raises StoreError, OperationError.
    """
    seen: dict[str, datetime] = {}
    parameters: dict[str, Any] = {"route": route, "characters": _QUESTION_CHARACTERS, "sealed": PREFIX}
    since, limit = datetime.fromtimestamp(0, UTC), count
    # What is in the store before the first look, and is not among the last, is not news.
    news_from = _now(store) if follow else since
    while True:
        rows = store.query(_TAIL, {**parameters, "since": since, "limit": limit})
        new = [row for row in reversed(rows) if row["trace_id"] not in seen]
        seen |= {row["trace_id"]: row.pop("stored_at") for row in new}
        if new:
            record_read(store, reader, "tail", [row["trace_id"] for row in new])
        yield from new
        if not follow:
            return
        sleep(FOLLOW_EVERY_S)
        since, limit = max(news_from, _now(store) - FOLLOW_OVERLAP), MAX_FOLLOWED
        seen = {trace_id: arrived for trace_id, arrived in seen.items() if arrived >= since}


def _now(store: Store) -> datetime:
    """The store's clock: `stored_at` is taken from it."""
    now: datetime = store.query("SELECT now64(3, 'UTC') AS now")[0]["now"]
    return now
