"""Extras are a share of the recent requests, at every moment and every rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.recent_counts import SLICES
from gateway.upstream.share_budget import BURST, WINDOW_S, ShareBudget

ROUNDING_S = 1e-6
ARRIVALS = st.lists(st.tuples(st.floats(0, WINDOW_S / 2), st.integers(0, 3)), max_size=80)


@given(ARRIVALS, st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]), st.integers(0, 5))
def test_none_is_granted_that_would_exceed_the_share_of_the_windows_requests(
    arrivals: list[tuple[float, int]], share: float, floor: int
):
    budget = ShareBudget(share, floor=floor)
    now = 0.0
    requests: list[float] = []
    extras: list[float] = []
    for wait, wishes in arrivals:
        now += wait
        budget.deposit(now)
        requests.append(now)
        for _ in range(wishes):
            if budget.withdraw(now):
                extras.append(now)
                # What is counted reaches back a whole window at most, and all but a slice of it at least.
                recent = sum(now - at <= WINDOW_S + ROUNDING_S for at in requests)
                surely = WINDOW_S * (1 - 1 / SLICES) - ROUNDING_S
                granted = sum(now - at < surely for at in extras)
                assert granted <= max(share * recent + 1e-6, floor if share else 0)
    if not floor:
        assert len(extras) <= share * len(requests) + 1e-6


@given(st.integers(0, 400), st.sampled_from([0.05, 0.2, 0.5]))
def test_within_one_window_the_share_of_all_requests_is_granted_and_no_more(requests: int, share: float):
    budget = ShareBudget(share)
    granted = 0
    for _ in range(requests):
        budget.deposit(0.0)
        granted += budget.withdraw(0.0)

    assert granted == int(share * requests + 1e-9)


@given(st.integers(0, 5000), st.integers(0, 300), st.sampled_from([0.05, 0.2, 0.5]), st.integers(0, 5))
def test_a_run_of_requests_has_little_more_than_its_share_however_many_came_before(
    before: int, run: int, share: float, floor: int
):
    budget = ShareBudget(share, floor=floor)
    for _ in range(before):
        budget.deposit(0.0)
    granted = 0
    for _ in range(run):
        budget.deposit(0.0)
        while budget.withdraw(0.0):
            granted += 1

    assert granted <= BURST + floor + share * run + 1e-6


def test_a_share_of_nothing_grants_nothing_whatever_the_floor():
    budget = ShareBudget(0.0, floor=10)
    for _ in range(1000):
        budget.deposit(0.0)

    assert not budget.withdraw(0.0)


def test_nothing_is_saved_up():
    budget = ShareBudget(0.05)
    for _ in range(10_000):
        budget.deposit(0.0)

    assert not budget.withdraw(WINDOW_S + 1)


@pytest.mark.parametrize("floor", [0, 3])
def test_a_slow_trickle_gets_its_floor_a_window(floor: int):
    budget = ShareBudget(0.2, floor=floor)
    granted = 0
    for minute in range(100):
        budget.deposit(minute * (WINDOW_S + 1))
        while budget.withdraw(minute * (WINDOW_S + 1)):
            granted += 1

    assert granted == 100 * floor
