"""Lets rows go that are past `store.retention_days`: whole partitions, at once, without reading a row.

A partition goes when its last row is past its days. Partitions are days where few days are kept, else months
(`gateway.traces.layout`): so a row goes at most a day, or a month, after it is due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from gateway.config.types import Store as Settings
from gateway.errors import StoreUnreachableError, TracetuneError
from gateway.traces.layout import Layout, layout_of
from gateway.traces.store import Store

EVERY_S = 3600.0
AGAIN_S = 60.0
# What retention_days removes. What was learnt and decided stays.
RETAINED = ("traces", "judgments", "feedback", "traces_by_minute", "judged_minutes", "labels", "blobs")
_log = logging.getLogger(__name__)


class Partition(msgspec.Struct, frozen=True, order=True):
    """One partition of a table, by its id: 202511 is a month, 20251125 a day, of UTC."""

    table: str
    id: str

    @property
    def end(self) -> datetime | None:
        """When the time after it begins; None where the id is no time."""
        text = self.id
        if not (text.isdecimal() and len(text) in {6, 8}):
            return None
        if len(text) == 8:
            return datetime(int(text[:4]), int(text[4:6]), int(text[6:]), tzinfo=UTC) + timedelta(days=1)
        years, month = divmod(int(text[:4]) * 12 + int(text[4:]), 12)
        return datetime(years, month + 1, 1, tzinfo=UTC)


def expired(partitions: list[Partition], days: int, now: datetime) -> list[Partition]:
    """Those of *partitions* in which every row is older than *days*, oldest first."""
    due = now - timedelta(days=days)
    return sorted(part for part in partitions if part.end is not None and part.end <= due)


def apply_retention(store: Store, days: int | None, now: datetime, *, layout: Layout) -> list[Partition]:
    """Drop what is older than *days* at *now*, and say what that was. None: keep all. Raises StoreError."""
    _stop_row_by_row(store, layout)
    _say_what_is_by_month(store, days, layout)
    if days is None:
        return []
    gone = expired(_partitions(store, layout), days, now)
    for part in gone:
        # A server refuses to drop more than 50 GB at once unless told that it is meant.
        store.command(
            f"ALTER TABLE {layout.rows_of(part.table)} DROP PARTITION ID '{part.id}' "
            "SETTINGS max_partition_size_to_drop = 0"
        )
        _log.info("dropped partition %s of %s: past store.retention_days (%d)", part.id, part.table, days)
    return gone


def _say_what_is_by_month(store: Store, days: int | None, layout: Layout) -> None:
    """A table that was made when more days were kept has partitions of a month for good."""
    if not layout.by_day:
        return
    rows = store.query(
        "SELECT name FROM system.tables "
        "WHERE database = currentDatabase() AND name IN {tables:Array(String)} "
        "AND startsWith(partition_key, 'toYYYYMM(') ORDER BY name",
        {"tables": [layout.data_table(table) for table in RETAINED]},
    )
    if rows:
        names = ", ".join(row["name"] for row in rows)
        _log.warning("rows go up to a month after store.retention_days (%s): %s is by month", days, names)


def keep_retention(
    connect: Callable[[], Store], settings: Settings, stop: threading.Event, first_s: float = 0.0
) -> None:
    """Apply the retention of *settings* after *first_s* and each hour from then on, until *stop* is set.

    A store that does not answer is asked again a minute later; what is due then is still due.
    """
    wait_s, layout = first_s, layout_of(settings)
    while not stop.wait(wait_s):
        try:
            with connect() as store:
                apply_retention(store, settings.retention_days, datetime.now(UTC), layout=layout)
            wait_s = EVERY_S
        except TracetuneError as error:
            # Whoever ships to a store that does not answer says so already.
            level = logging.DEBUG if isinstance(error, StoreUnreachableError) else logging.WARNING
            _log.log(level, "retention waits for its next turn: %s", error)
            wait_s = AGAIN_S


def _partitions(store: Store, layout: Layout) -> list[Partition]:
    """Of the retained tables. A cluster's shards need not have the same ones."""
    rows = store.query(
        f"SELECT DISTINCT table, partition_id FROM {layout.everywhere('system.parts')} "  # noqa: S608 -- names of ours
        "WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}",
        {"tables": [layout.data_table(table) for table in RETAINED]},
    )
    plain = {layout.data_table(table): table for table in RETAINED}
    return [Partition(plain[row["table"]], row["partition_id"]) for row in rows]


def _stop_row_by_row(store: Store, layout: Layout) -> None:
    """Earlier versions let rows go by a TTL, which rewrites parts row by row."""
    rows = store.query(
        "SELECT name FROM system.tables "
        "WHERE database = currentDatabase() AND name IN {tables:Array(String)} "
        "AND create_table_query LIKE '%TTL toDateTime(%toIntervalDay(%'",
        {"tables": list(RETAINED)},
    )
    for row in rows:
        store.command(f"ALTER TABLE {layout.rows_of(row['name'])} REMOVE TTL")
