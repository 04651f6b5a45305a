"""Second requests: not before the first is slow, and not more than the budget."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Hedge
from gateway.upstream.hedging import Hedging
from gateway.upstream.recent_latency import RELATIVE_ERROR, WINDOW_S
from gateway.upstream.share_budget import BURST

SLOW_S = 5.0


def test_nothing_is_hedged_before_enough_is_known():
    hedging = Hedging(Hedge(quantile=0.9))
    delays = []
    for _ in range(40):
        delays.append(hedging.arrive(float(len(delays))))
        hedging.observe(1.0, float(len(delays)))

    assert delays[:29] == [None] * 29
    assert delays[-1] == pytest.approx(1.0, rel=RELATIVE_ERROR)


def test_a_second_request_waits_for_the_p95_unless_the_settings_say_otherwise():
    hedging = Hedging(Hedge())
    for hundredth in range(1, 101):
        hedging.observe(hundredth / 100, 0.0)

    assert hedging.arrive(0.0) == pytest.approx(0.95, rel=RELATIVE_ERROR)


def test_the_delay_is_never_shorter_than_its_least():
    hedging = Hedging(Hedge(min_delay_s=0.5))
    for _ in range(100):
        hedging.observe(0.01, 0.0)

    assert hedging.arrive(0.0) == 0.5


@given(
    st.integers(),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.floats(0, 1),
    st.floats(0.01, 3),
)
def test_of_any_stream_at_most_the_budget_is_hedged(
    seed: int, budget: float, slow_share: float, pause_s: float
):
    random = Random(seed)
    hedging = Hedging(Hedge(budget=budget))
    now, hedged = 0.0, 0
    for _ in range(1000):
        now += random.expovariate(1 / pause_s)
        delay_s = hedging.arrive(now)
        took_s = SLOW_S if random.random() < slow_share else random.uniform(0.1, 1)
        if delay_s is not None and took_s > delay_s and hedging.take(now):
            hedged += 1
            took_s = delay_s + 0.2  # overtaken
        hedging.observe(took_s, now)

    assert hedged <= budget * 1000


def test_an_upstream_that_stalls_altogether_is_not_sent_twice_as_much():
    hedging = Hedging(Hedge(budget=0.05))
    for _ in range(10_000):
        hedging.arrive(0.0)
    granted = 0
    for _ in range(100):
        hedging.arrive(1.0)
        granted += hedging.take(1.0)

    assert BURST <= granted <= BURST + 0.05 * 100


def test_the_quantile_does_not_fall_with_every_hedge():
    """It would, were the overtaken not observed: a twentieth of the quick ones would be the next slow ones."""
    random = Random(7)
    hedging = Hedging(Hedge(quantile=0.95, budget=1.0))
    windows = 20
    for second in range(windows * int(WINDOW_S)):
        delay_s = hedging.arrive(second)
        took_s = random.uniform(0.5, 1)
        hedging.observe(took_s if delay_s is None else min(took_s, delay_s + 0.01), second)

    assert hedging.arrive(windows * WINDOW_S) == pytest.approx(0.975, rel=2 * RELATIVE_ERROR)
