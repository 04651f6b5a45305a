from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.ids import uuid7
from gateway.traces.lookup import time_bounds, trace_by_id
from gateway.traces.store import Store
from tests.support.store import a_trace

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 25, 10, 30, 0, 123_456, tzinfo=UTC)


def id_of(at: datetime) -> str:
    return uuid7((at - EPOCH) // timedelta(microseconds=1) * 1000, bytes(8))


@given(st.integers(0, 4_102_444_800_000_000))
def test_a_trace_started_within_the_bounds_of_its_id(microseconds: int) -> None:
    started_at = EPOCH + timedelta(microseconds=microseconds)
    bounds = time_bounds(id_of(started_at))

    assert bounds is not None
    assert bounds[0] <= started_at <= bounds[1]
    assert bounds[1] - bounds[0] == timedelta(milliseconds=1)


@given((st.text(max_size=40) | st.uuids().map(str)).filter(lambda text: text[14:15] != "7"))
def test_an_id_that_is_no_uuid_of_version_7_has_no_bounds(text: str) -> None:
    assert time_bounds(text) is None


def test_the_last_time_that_an_id_can_say_is_no_error() -> None:
    assert time_bounds("ffffffff-ffff-7fff-8fff-ffffffffffff") is None


def test_a_trace_is_found_by_its_id_whenever_it_started(clean_store: Store) -> None:
    ours, foreign = id_of(NOW), id_of(NOW + timedelta(days=1))
    rows = [
        a_trace(trace_id=ours, started_at=NOW, route="a"),
        a_trace(trace_id=foreign, started_at=NOW - timedelta(days=400), route="b"),
        a_trace(trace_id="t1", started_at=NOW, route="c"),
    ]
    clean_store.insert("traces", rows, token="t")

    found = {trace_id: trace_by_id(clean_store, trace_id) for trace_id in (ours, foreign, "t1")}
    assert {trace_id: row and row["route"] for trace_id, row in found.items()} == {
        ours: "a",
        foreign: "b",
        "t1": "c",
    }
    assert trace_by_id(clean_store, id_of(NOW + timedelta(seconds=1))) is None
