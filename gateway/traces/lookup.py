"""Finds one trace by its id. An id of ours says when its trace started, and the store is sorted by that."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.traces.store import Store

_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def time_bounds(trace_id: str) -> tuple[datetime, datetime] | None:
    """The moments between which a trace with this UUIDv7 started; None where the id does not say."""
    match = _UUID7.fullmatch(trace_id)
    if match is None:
        return None
    milliseconds = int(match[1] + match[2], 16)
    try:
        first = _EPOCH + timedelta(milliseconds=milliseconds)
        return first, first + _MILLISECOND
    except OverflowError:
        return None


def trace_by_id(store: Store, trace_id: str) -> dict[str, Any] | None:
    """The row of `traces` with this id, or None. Raises StoreError.

    One taken over from elsewhere need not have started when its id was made: it takes a longer search.
    """
    bounds = time_bounds(trace_id)
    asked = "SELECT * FROM traces WHERE trace_id = {id:String}"
    at = "{first:DateTime64(6, 'UTC')} AND {last:DateTime64(6, 'UTC')}"
    found: list[dict[str, Any]] = []
    if bounds is not None:
        values = {"id": trace_id, "first": bounds[0], "last": bounds[1]}
        found = store.query(f"{asked} AND started_at BETWEEN {at} LIMIT 1", values)
    found = found or store.query(f"{asked} LIMIT 1", {"id": trace_id})
    return found[0] if found else None
