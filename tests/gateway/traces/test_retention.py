from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config
from gateway.config.types import Store as StoreConfig
from gateway.errors import StoreUnreachableError
from gateway.traces import retention
from gateway.traces.layout import Layout
from gateway.traces.retention import RETAINED, Partition, apply_retention, expired, keep_retention
from gateway.traces.store import Store, open_store
from tests.support.store import a_trace, store_config

NOW = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
ONE_SERVER = Layout()
TIME_OF = {
    "traces": "started_at",
    "judgments": "judged_at",
    "feedback": "created_at",
    "traces_by_minute": "minute",
    "judged_minutes": "minute",
    "labels": "labelled_at",
    "blobs": "used_until",
}
ID_OF = {
    "traces": "trace_id",
    "judgments": "trace_id",
    "feedback": "feedback_id",
    "traces_by_minute": "route",
    "judged_minutes": "trace_id",
    "labels": "trace_id",
    "blobs": "blob",
}
PARTS = "SELECT table, name FROM system.parts WHERE active AND database = currentDatabase() AND table = {t:String}"
moments = st.integers(946_684_800, 4_102_444_800).map(lambda second: datetime.fromtimestamp(second, UTC))


@given(moments, st.integers(1, 4000), st.integers(0, 5000), st.booleans())
def test_a_partition_goes_when_and_only_when_its_last_row_is_older_than_the_days(
    now: datetime, days: int, age_days: int, by_day: bool
) -> None:
    row_at = now - timedelta(days=age_days)
    partition = Partition("traces", f"{row_at:%Y%m%d}" if by_day else f"{row_at:%Y%m}")
    last = row_at
    while f"{last + timedelta(days=1):%Y%m%d}".startswith(partition.id):
        last += timedelta(days=1)
    last = last.replace(hour=23, minute=59, second=59, microsecond=999_999)

    gone = expired([partition], days, now) == [partition]

    assert gone == (last < now - timedelta(days=days))
    assert gone or age_days <= days + (1 if by_day else 31)


def test_a_partition_that_is_no_time_stays() -> None:
    assert expired([Partition("traces", name) for name in ("all", "2", "0123456789abcdef")], 1, NOW) == []


def put(store: Store, *ages_days: int) -> None:
    """A row of each age in every table that is not kept for good."""
    for table, column in TIME_OF.items():
        for age in ages_days:
            at = f"toDateTime64('{NOW:%Y-%m-%d %H:%M:%S}', 6, 'UTC') - INTERVAL {age} DAY"
            store.command(f"INSERT INTO {table} ({column}, {ID_OF[table]}) SELECT {at}, 'row {age}'")


def ages(store: Store, table: str) -> list[int]:
    rows = store.query(f"SELECT DISTINCT {TIME_OF[table]} AS at FROM {table} ORDER BY at DESC")
    return [(NOW - row["at"]).days for row in rows]


@pytest.mark.parametrize("table", RETAINED)
def test_what_is_past_its_retention_is_dropped_and_nothing_is_rewritten(
    clean_store: Store, table: str
) -> None:
    put(clean_store, 1, 35, 90, 120)
    clean_store.command(f"OPTIMIZE TABLE {table} FINAL")
    before = {row["name"] for row in clean_store.query(PARTS, {"t": table})}

    gone = apply_retention(clean_store, 60, NOW, layout=ONE_SERVER)

    after = {row["name"] for row in clean_store.query(PARTS, {"t": table})}
    assert [part.id for part in gone if part.table == table] == ["202607", "202608"]
    assert ages(clean_store, table) == [1, 35]
    assert after < before, "parts are the same or gone: a rewritten part has another name"
    mutations = clean_store.query(
        "SELECT * FROM system.mutations WHERE database = currentDatabase() AND NOT is_done"
    )
    assert mutations == []
    assert apply_retention(clean_store, 60, NOW, layout=ONE_SERVER) == []


def test_without_days_all_is_kept(clean_store: Store) -> None:
    put(clean_store, 5000)

    assert apply_retention(clean_store, None, NOW, layout=ONE_SERVER) == []
    assert [ages(clean_store, table) for table in RETAINED] == [[5000]] * len(RETAINED)


def test_everything_that_is_retained_is_partitioned_by_its_time(clean_store: Store) -> None:
    rows = clean_store.query(
        "SELECT name, partition_key FROM system.tables WHERE database = currentDatabase()"
    )
    keys = {row["name"]: row["partition_key"] for row in rows}

    assert {table: keys[table] for table in RETAINED} == {
        table: f"toYYYYMM({column})" for table, column in TIME_OF.items()
    }
    assert set(RETAINED) == {name for name, key in keys.items() if key}


def test_a_row_by_row_ttl_of_an_earlier_version_is_taken_away(clean_store: Store) -> None:
    clean_store.command("ALTER TABLE traces MODIFY TTL toDateTime(started_at) + INTERVAL 90 DAY")

    apply_retention(clean_store, 90, NOW, layout=ONE_SERVER)

    rows = clean_store.query("SELECT create_table_query AS sql FROM system.tables WHERE name = 'traces'")
    assert [row for row in rows if " TTL " in row["sql"]] == []


def test_where_few_days_are_kept_a_trace_leaves_with_its_day(tmp_path: Path) -> None:
    """Through a whole store: made for few days, and tidied when it starts."""
    config = store_config(tmp_path)
    config = msgspec.structs.replace(config, store=msgspec.structs.replace(config.store, retention_days=7))
    now = datetime.now(UTC)
    with open_store(config) as store:
        traces = [a_trace(trace_id=f"t{age}", started_at=now - timedelta(days=age)) for age in (0, 6, 9)]
        store.insert("traces", traces, token="t")
    with open_store(config) as store:
        kept = [row["trace_id"] for row in store.query("SELECT trace_id FROM traces ORDER BY trace_id")]

    assert kept == ["t0", "t6"]


def test_retention_goes_on_after_the_store_was_away(
    embedded_config: Config, clean_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "AGAIN_S", 0.01)
    put(clean_store, 400)
    asked: list[int] = []
    stop = threading.Event()

    def connect() -> Store:
        asked.append(1)
        if len(asked) == 1:
            raise StoreUnreachableError("away")
        stop.set()
        return Store.connect(embedded_config, {})

    keep_retention(connect, StoreConfig(retention_days=365), stop)

    assert len(asked) == 2
    assert ages(clean_store, "traces") == []


def test_a_store_by_month_says_that_rows_of_few_days_go_late(
    clean_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    apply_retention(clean_store, 7, NOW, layout=Layout(by_day=True))

    assert (
        "rows go up to a month after store.retention_days (7): blobs, feedback, judged_minutes, "
        in caplog.text
    )
