"""Windows are calendar windows of UTC: they touch, nest, and one moment lies in exactly one of each period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quotas.windows import PERIODS, ends_at, numbers_at, starts_at

moments = st.floats(min_value=0, max_value=7_000_000_000, allow_nan=False)


@given(moments)
def test_a_moment_lies_within_its_windows(at_s: float) -> None:
    for period, number in enumerate(numbers_at(at_s)):
        assert starts_at(period, number).timestamp() <= at_s < ends_at(period, number).timestamp()


@given(moments)
def test_windows_nest(at_s: float) -> None:
    starts = [starts_at(period, number) for period, number in enumerate(numbers_at(at_s))]
    ends = [ends_at(period, number) for period, number in enumerate(numbers_at(at_s))]

    assert starts == sorted(starts, reverse=True)
    assert ends == sorted(ends)


@given(moments)
def test_the_next_window_has_the_next_number(at_s: float) -> None:
    for period, number in enumerate(numbers_at(at_s)):
        assert number + 1 == numbers_at(ends_at(period, number).timestamp())[period]


@pytest.mark.parametrize(
    ("per", "at", "start", "end"),
    [
        ("minute", "2026-02-28T23:59:59", "2026-02-28T23:59:00", "2026-03-01T00:00:00"),
        ("day", "2028-02-29T12:00:00", "2028-02-29T00:00:00", "2028-03-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month", "1970-01-01T00:00:00", "1970-01-01T00:00:00", "1970-02-01T00:00:00"),
    ],
)
def test_windows_begin_and_end_where_the_calendar_says(per: str, at: str, start: str, end: str) -> None:
    period = [str(known) for known in PERIODS].index(per)
    number = numbers_at(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp())[period]

    assert datetime.fromisoformat(start).replace(tzinfo=UTC) == starts_at(period, number)
    assert datetime.fromisoformat(end).replace(tzinfo=UTC) == ends_at(period, number)
    assert ends_at(period, number) - starts_at(period, number) > timedelta(0)
