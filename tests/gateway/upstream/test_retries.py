"""Pauses and budgets of retries."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.retries import (
    BACKOFF_CAP_S,
    MAX_RETRY_AFTER_S,
    is_moved,
    is_retried,
    parse_retry_after,
    pause_s,
)

NOW = b"Fri, 31 Dec 1999 23:59:00 GMT"


@given(st.integers(1, 50), st.integers())
def test_backoff_is_jittered_and_bounded(retry: int, seed: int):
    pause = pause_s(retry, None, Random(seed))

    assert pause is not None
    assert 0 < pause <= BACKOFF_CAP_S


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
        ([(b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], None),
        ([(b"date", NOW), (b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], 59.0),
        ([(b"retry-after", b"Fri, 31 Dec 1999 22:59:59 GMT"), (b"date", NOW)], 0.0),
        ([(b"date", NOW), (b"retry-after", b"Fri, 31 Dec 99999 23:59:59 GMT")], None),
        ([(b"date", NOW), (b"retry-after", b"31 Dec 1999 23:59:59")], None),
        ([(b"date", b"now"), (b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")], None),
        ([(b"date", NOW), (b"retry-after", b"soon \xff")], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"inf")], None),
        ([], None),
    ],
)
def test_retry_after_is_read(headers: list[tuple[bytes, bytes]], expected: float | None):
    assert parse_retry_after(headers) == expected


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
