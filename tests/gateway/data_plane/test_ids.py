"""Trace ids are UUIDv7 and sort by time."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from gateway.data_plane.ids import uuid7

times = st.integers(0, 2**48 * 1_000_000 - 1)
randoms = st.binary(min_size=8, max_size=8)


@given(times, randoms)
def test_an_id_is_a_uuid_of_version_7_that_holds_its_time(unix_ns: int, random: bytes):
    made = uuid.UUID(uuid7(unix_ns, random))

    assert str(made) == uuid7(unix_ns, random)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == unix_ns // 1_000_000


@given(times, times, randoms, randoms)
def test_ids_a_microsecond_apart_sort_by_time(one: int, other: int, low: bytes, high: bytes):
    if abs(one - other) >= 1000:
        assert (uuid7(one, low) < uuid7(other, high)) == (one < other)
