"""Pauses and budgets of retries."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.retries import (
    BACKOFF_BASE_S,
    BACKOFF_CAP_S,
    MAX_RETRY_AFTER_S,
    is_moved,
    is_retried,
    parse_retry_after,
    pause_s,
)

NEW_YEAR = 1_735_689_600.0  # 2025 in UTC, seconds since the epoch
SERVERS_NOW = b"Fri, 31 Dec 1999 23:59:00 GMT"


@given(st.integers(1, 50), st.integers())
def test_backoff_doubles_up_to_its_cap_and_at_most_half_of_it_is_taken_off(retry: int, seed: int):
    pause, whole = pause_s(retry, None, Random(seed)), min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (retry - 1))

    assert pause is not None
    assert whole / 2 <= pause <= whole


def test_what_failed_at_once_does_not_come_back_at_once():
    pauses = sorted(pause_s(1, None, Random(seed)) or 0.0 for seed in range(100))

    assert len(set(pauses)) == 100
    assert pauses[75] - pauses[25] > BACKOFF_BASE_S / 8


@given(st.integers(1, 5), st.floats(0, 100), st.integers())
def test_a_retry_after_is_honoured_up_to_its_bound(retry: int, asked: float, seed: int):
    pause = pause_s(retry, asked, Random(seed))

    assert (pause is None) == (asked > MAX_RETRY_AFTER_S)
    assert pause is None or pause >= asked


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"retry-after", b"2")], 2.0),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], 0.0),
        ([(b"retry-after", b"Wed, 01 Jan 2025 00:00:03 GMT")], 3.0),
        ([(b"retry-after", b"Wed, 01 Jan 2025 00:00:03 GMT"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"Wed Jan  1 00:00:03 2025")], 3.0),
        ([(b"retry-after", b"Wed, 99 Jan 2025 00:00:03 GMT")], None),
        ([(b"retry-after", b"Fri, 31 Dec 99999999 00:00:00 GMT")], None),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"\xff")], None),
        ([(b"retry-after-ms", b"soon"), (b"retry-after", b"1")], 1.0),
        ([(b"date", SERVERS_NOW), (b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], 59.0),
        ([(b"retry-after", b"Fri, 31 Dec 1999 22:59:59 GMT"), (b"date", SERVERS_NOW)], 0.0),
        ([(b"date", SERVERS_NOW), (b"retry-after", b"Fri, 31 Dec 99999 23:59:59 GMT")], None),
        ([(b"date", b"now"), (b"retry-after", b"Wed, 01 Jan 2025 00:00:03 GMT")], 3.0),
        ([(b"date", SERVERS_NOW), (b"retry-after", b"soon \xff")], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"inf")], None),
        ([], None),
    ],
)
def test_retry_after_is_read(headers: list[tuple[bytes, bytes]], expected: float | None):
    assert parse_retry_after(headers, NEW_YEAR) == expected


@given(st.binary(max_size=40))
def test_whatever_a_server_says_is_a_time_to_come_or_nothing(value: bytes):
    seconds = parse_retry_after([(b"retry-after", value)], NEW_YEAR)

    assert seconds is None or 0 <= seconds < float("inf")


def test_statuses():
    assert [
        status for status in (400, 401, 404, 408, 409, 422, 429, 500, 503, 529) if is_retried(status)
    ] == [
        408,
        409,
        429,
        500,
        503,
        529,
    ]
    assert [status for status in (400, 401, 403, 404, 413, 422, 429) if is_moved(status)] == [
        401,
        403,
        404,
        429,
    ]
