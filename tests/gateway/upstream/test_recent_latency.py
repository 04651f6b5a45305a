"""The recent quantile, against the exact one of everything that was observed."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.recent_counts import SLICES
from gateway.upstream.recent_latency import (
    LONGEST_S,
    MIN_BEYOND,
    REFRESH_S,
    RELATIVE_ERROR,
    SHORTEST_S,
    WINDOW_S,
    RecentLatency,
)

QUANTILES = st.sampled_from([0.5, 0.9, 0.95, 0.99])
SECONDS = st.floats(SHORTEST_S, LONGEST_S)


def nearest_rank(values: list[float], quantile: float) -> float:
    return sorted(values)[ceil(quantile * len(values) - 1e-9) - 1]


@given(st.lists(SECONDS, min_size=1, max_size=400), QUANTILES)
def test_it_is_within_the_stated_error_of_the_exact_quantile_or_unknown(values: list[float], quantile: float):
    latency = RecentLatency(quantile)
    for value in values:
        latency.observe(value, 0.0)
    estimate = latency.value_s(0.0)

    enough = len(values) >= ceil(MIN_BEYOND / (1 - quantile) - 1e-9)
    assert (estimate is not None) == enough
    if estimate is not None:
        assert estimate == pytest.approx(nearest_rank(values, quantile), rel=RELATIVE_ERROR + 1e-6)


@given(st.integers(), st.floats(-6, 3), st.floats(0.1, 2), QUANTILES)
def test_so_it_is_on_long_random_streams(seed: int, middle: float, spread: float, quantile: float):
    random = Random(seed)
    latency = RecentLatency(quantile)
    values = [min(LONGEST_S, max(SHORTEST_S, random.lognormvariate(middle, spread))) for _ in range(1000)]
    for value in values:
        latency.observe(value, 0.0)

    assert latency.value_s(0.0) == pytest.approx(nearest_rank(values, quantile), rel=RELATIVE_ERROR + 1e-6)


@given(st.lists(st.floats(0, 2), min_size=100, max_size=300), st.integers())
def test_what_is_older_than_the_window_is_forgotten(waits: list[float], seed: int):
    random = Random(seed)
    latency = RecentLatency(0.9)
    now = 0.0
    for _ in range(1000):
        latency.observe(LONGEST_S, now)
    now += WINDOW_S
    values: list[float] = []
    for wait in waits[: int((WINDOW_S - WINDOW_S / SLICES) / 2)]:
        now += wait
        values.append(random.uniform(0.01, 1))
        latency.observe(values[-1], now)

    assert latency.value_s(now) == pytest.approx(nearest_rank(values, 0.9), rel=RELATIVE_ERROR + 1e-6)


@given(st.floats(allow_nan=False, max_value=0) | st.floats(LONGEST_S, allow_nan=False), QUANTILES)
def test_any_number_can_be_observed_and_counts_as_the_nearest_that_is_measured(value: float, quantile: float):
    latency = RecentLatency(quantile)
    for _ in range(1000):
        latency.observe(value, 0.0)

    nearest = SHORTEST_S if value <= 0 else LONGEST_S
    assert latency.value_s(0.0) == pytest.approx(nearest, rel=2 * RELATIVE_ERROR)


def test_an_answer_is_kept_for_a_moment_and_then_told_anew():
    latency = RecentLatency(0.5)
    for _ in range(10):
        latency.observe(1.0, 0.0)
    first = latency.value_s(0.0)
    for _ in range(1000):
        latency.observe(5.0, 0.1)

    assert latency.value_s(REFRESH_S / 2) == first
    assert latency.value_s(REFRESH_S) == pytest.approx(5.0, rel=RELATIVE_ERROR)


def test_after_a_silence_as_long_as_the_window_nothing_is_known():
    latency = RecentLatency(0.5)
    for _ in range(10):
        latency.observe(1.0, 0.0)
    assert latency.value_s(0.0) is not None

    assert latency.value_s(WINDOW_S) is None
