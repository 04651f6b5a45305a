"""A refused client learns which limit, how much of it is left, and when to come back, as OpenAI would say it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.data_plane.errors import ApiError
from gateway.data_plane.limit_answers import limit_headers, refused
from gateway.quotas import Ledger, Refusal, Reservation
from tests.support.quotas import NOW_S, auth_of, files_in


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(files_in(tmp_path))
    yield opened
    opened.close()


def answer_to_second(
    ledger: Ledger, limits: list[dict[str, Any]], *, settled: bool = True, at_s: float = NOW_S
) -> ApiError:
    """What a client hears after one request of 60 tokens and 0.6 USD, when it sends another one."""
    account = ledger.accounts(auth_of(web=limits))["web"]
    first = ledger.reserve(account, at_s, tokens=60, usd=0.6)
    if isinstance(first, Reservation) and settled:
        ledger.settle(first, tokens=60, usd=0.6)
    second = ledger.reserve(account, at_s, tokens=60, usd=0.6)
    assert isinstance(second, Refusal)
    return refused(second)


def test_requests_per_minute(ledger: Ledger) -> None:
    answer = answer_to_second(ledger, [{"per": "minute", "requests": 1}], at_s=NOW_S + 17.5)

    assert (answer.status, answer.kind, answer.code) == (429, "requests", "rate_limit_exceeded")
    assert str(answer) == (
        "Limit of key 'web': 1 requests per minute; this request may use 1, 0 left until the minute ends (UTC). "
        "auth.keys[].limits sets it."
    )
    assert answer.headers == [(b"retry-after", b"43")]


def test_tokens_per_day_are_not_worth_a_retry(ledger: Ledger) -> None:
    answer = answer_to_second(ledger, [{"per": "day", "tokens": 1000}, {"per": "hour", "tokens": 100}])

    assert (answer.status, answer.kind, answer.code) == (429, "tokens", "rate_limit_exceeded")
    assert "100 tokens per hour; this request may use 60, 40 left until the hour ends" in str(answer)
    assert answer.headers == [(b"retry-after", b"1980"), (b"x-should-retry", b"false")]


def test_usd_is_a_quota(ledger: Ledger) -> None:
    answer = answer_to_second(ledger, [{"per": "minute", "usd": 1.0}])

    assert (answer.status, answer.kind, answer.code) == (429, "insufficient_quota", "insufficient_quota")
    assert "1 USD per minute; this request may use 0.6, 0.4 left" in str(answer)


def test_requests_in_flight_are_worth_a_retry_at_once(ledger: Ledger) -> None:
    answer = answer_to_second(ledger, [{"per": "month", "tokens": 100}], settled=False)

    assert "40 left beside the requests in flight" in str(answer)
    assert answer.headers == [(b"retry-after", b"1")]


def test_a_request_that_never_fits_is_told_what_to_change_and_not_to_retry(ledger: Ledger) -> None:
    answer = answer_to_second(ledger, [{"per": "minute", "tokens": 50}])

    assert "50 tokens per minute; this request alone may use 60. Send less, or ask for fewer" in str(answer)
    assert answer.headers == [(b"x-should-retry", b"false")]


def test_a_missing_price_names_the_setting_and_is_not_retried(ledger: Ledger) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "minute", "usd": 1.0}]))["web"]
    refusal = ledger.reserve(account, NOW_S, tokens=1, usd=None)
    assert isinstance(refusal, Refusal)

    answer = refused(refusal)

    assert (answer.status, answer.code) == (403, "unknown_price")
    assert "upstreams[].prices of the gateway sets it" in str(answer)
    assert answer.headers == [(b"x-should-retry", b"false")]


def test_counters_that_do_not_answer_are_the_gateways_fault() -> None:
    answer = refused(Refusal(key="web", reason="unavailable", retry_after_s=1.0))

    assert (answer.status, answer.kind) == (503, "server_error")
    assert answer.headers == [(b"retry-after", b"1")]


def test_an_answer_says_what_the_tightest_limits_have_left_and_when_they_start_anew(ledger: Ledger) -> None:
    limits: list[dict[str, Any]] = [
        {"per": "minute", "requests": 10, "tokens": 1000},
        {"per": "day", "requests": 5, "tokens": 100_000, "usd": 9},
    ]
    account = ledger.accounts(auth_of(web=limits))["web"]
    taken = ledger.reserve(account, NOW_S + 18, tokens=60, usd=0.6)
    assert isinstance(taken, Reservation)

    assert limit_headers(taken, NOW_S + 18) == [
        (b"x-ratelimit-limit-requests", b"5"),
        (b"x-ratelimit-remaining-requests", b"4"),
        (b"x-ratelimit-reset-requests", b"3h32m42s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"940"),
        (b"x-ratelimit-reset-tokens", b"42s"),
    ]


def test_what_has_no_limit_has_no_header(ledger: Ledger) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "minute", "usd": 1}]))["web"]
    taken = ledger.reserve(account, NOW_S, tokens=60, usd=0.6)
    assert isinstance(taken, Reservation)

    assert limit_headers(taken, NOW_S) == []
