from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.judges import JudgeLimits
from gateway.traces.store import Store
from gateway.traces.types import Judgment
from judges.budget import Budget, spent_since
from judges.pacing import Bucket, burst, full, take

RATES = st.floats(0.1, 100_000)


@given(RATES, st.lists(st.floats(0, 30), max_size=200))
def test_between_any_two_moments_no_more_is_taken_than_the_burst_and_the_rate(
    per_minute: float, gaps: list[float]
):
    now, bucket, taken = 0.0, full(per_minute, 0.0), list[float]()
    for gap in gaps:
        now += gap
        for _ in range(3):
            bucket, wait_s = take(bucket, per_minute, now)
            if wait_s == 0:
                taken.append(now)
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= burst(per_minute) + (end - start) * per_minute / 60 + 1e-6


@given(RATES, st.floats(0, 1e6))
def test_whoever_waits_as_long_as_it_is_told_gets_its_turn_and_not_much_earlier(
    per_minute: float, now: float
):
    bucket = Bucket(0.0, now)
    same, wait_s = take(bucket, per_minute, now)
    assert (same.tokens, wait_s) == (0.0, pytest.approx(60 / per_minute))
    assert take(bucket, per_minute, now + wait_s * 1.001 + 1e-6)[1] == 0
    assert take(bucket, per_minute, now + wait_s * 0.9)[1] > 0


@given(RATES)
def test_a_judge_that_rested_for_a_day_may_take_a_burst_and_a_clock_that_goes_back_gives_nothing(
    per_minute: float,
):
    bucket = take(full(per_minute, 0.0), per_minute, 0.0)[0]
    rested, _ = take(bucket, per_minute, 86_400.0)
    assert rested.tokens <= burst(per_minute) - 1
    assert take(Bucket(0.5, 100.0), per_minute, 5.0)[0].tokens == 0.5


NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def cost(trace: str, usd: float | None, at: datetime = NOON, *, judge: str = "good", version: str = "v1"):
    return Judgment(
        trace_id=trace, judge=judge, version=version, score=1.0, reason="", judged_at=at, cost_usd=usd
    )


def test_what_is_spent_is_the_judges_own_of_this_day_in_all_versions(clean_store: Store):
    rows = [
        cost("a", 0.5),
        cost("a", 0.25, version="v2"),
        cost("b", None),
        cost("c", 3.0, NOON - timedelta(hours=12, microseconds=1)),
        cost("d", 0.125, NOON - timedelta(hours=12)),
        cost("e", 7.0, judge="other"),
    ]
    clean_store.insert("judgments", rows, token="x")
    assert spent_since(clean_store, "good", NOON.replace(hour=0)) == 0.875


def test_a_budget_is_exhausted_by_what_others_spent_and_by_its_own_and_is_whole_again_the_next_day(
    clean_store: Store,
):
    now = NOON
    budget = Budget("good", JudgeLimits(usd_per_day=1.0), clock=lambda: now)
    clean_store.insert("judgments", [cost("a", 0.75)], token="x")
    budget.sync(clean_store)
    assert not budget.exhausted()
    budget.charge(None)
    budget.charge(0.25)
    assert budget.exhausted()
    assert budget.told() == (
        "judge good pauses: its limits.usd_per_day of 1 USD is reached (1 spent since midnight UTC); "
        "it goes on at 2026-11-26 00:00 UTC, or when that is raised"
    )
    clean_store.command("TRUNCATE TABLE judgments")
    budget.sync(clean_store)
    assert budget.exhausted(), "what was spent stays spent, whatever the store forgets"
    now = NOON + timedelta(hours=12)
    assert not budget.exhausted()


def test_without_limits_nothing_is_asked_and_nothing_waited_for():
    budget = Budget("good", JudgeLimits())
    budget.charge(1e9)
    assert not budget.exhausted()
    assert [budget.wait_s() for _ in range(1000)] == [0.0] * 1000
