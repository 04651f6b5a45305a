"""The e-process keeps its promises: error rates by simulation, power against the reference, exact laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rollout.eprocess import (
    GRID,
    Question,
    Sample,
    difference_interval,
    difference_returns,
    level_returns,
    log_e_difference,
    log_e_level,
    log_products,
)

NEVER = 10**9
LAW = settings(max_examples=60, deadline=None)  # a busy machine proves nothing


def log_e_paths(returns: np.ndarray) -> np.ndarray:
    """The log e-value after every unit; rows of *returns* are runs."""
    sums = np.stack([np.cumsum(np.log1p(f * returns), axis=1) for f in GRID])
    top = sums.max(axis=0)
    return top + np.log(np.exp(sums - top).mean(axis=0))


def first_crossing(paths: np.ndarray, alpha: float) -> np.ndarray:
    hits = paths >= math.log(1 / alpha)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, NEVER)


def simulate(seed, runs, units, share, stable, candidate):
    """Binary outcomes of *runs* rollouts; `share` is a number or one per unit (a ramp)."""
    rng = np.random.default_rng(seed)
    shares = np.broadcast_to(np.asarray(share, dtype=float), (runs, units))
    arm = rng.random((runs, units)) < shares
    x = (rng.random((runs, units)) < np.where(arm, candidate, stable)).astype(float)
    return Sample(arm, shares, x, np.ones((runs, units)))


def decided(sample, question, alpha):
    return first_crossing(log_e_paths(difference_returns(sample, question)), alpha)


SUPERIOR = Question(direction=1, center=0.8)
RAMP = np.repeat([0.05, 0.1, 0.25, 0.5], [1000, 1000, 1000, 2000])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, RAMP], ids=["5%", "10%", "50%", "ramp"])
def test_equal_arms_are_promoted_in_at_most_alpha_of_runs_looked_at_after_every_unit(share):
    sample = simulate(11, 100, 5000, share, 0.8, 0.8)

    assert (decided(sample, SUPERIOR, 0.05) < NEVER).mean() <= 0.05


@pytest.mark.parametrize("margin", [0.03, 0.1])
def test_worse_by_exactly_the_margin_passes_non_inferiority_in_at_most_alpha_of_runs(margin):
    sample = simulate(12, 150, 4000, 0.5, 0.8, 0.8 - margin)
    question = Question(direction=1, center=0.8, null=-margin)

    assert (decided(sample, question, 0.05) < NEVER).mean() <= 0.05


def test_a_cost_that_is_higher_by_exactly_the_margin_passes_in_at_most_alpha_of_runs():
    rng = np.random.default_rng(13)
    arm = rng.random((150, 3000)) < 0.5
    cost = np.minimum(rng.lognormal(-0.35, 0.83, arm.shape) * np.where(arm, 1.1, 1.0) / 20, 1)
    sample = Sample(arm, np.full(arm.shape, 0.5), cost, np.ones(arm.shape))
    question = Question(direction=-1, center=0.05, ratio=1.1)

    assert (decided(sample, question, 0.05) < NEVER).mean() <= 0.05


def test_a_candidate_that_is_not_worse_is_rolled_back_in_at_most_harm_alpha_of_runs():
    sample = simulate(14, 150, 3000, 0.1, 0.8, 0.8)

    assert (decided(sample, Question(direction=-1, center=0.8), 0.01) < NEVER).mean() <= 0.01


@pytest.mark.parametrize(
    ("share", "stable", "candidate", "units", "expected"),
    [(0.5, 0.8, 0.9, 3000, 394), (0.5, 0.8, 0.85, 7000, 1700), (0.1, 0.8, 0.9, 6000, 1300)],
)
def test_superiority_takes_the_sessions_of_the_reference(share, stable, candidate, units, expected):
    sample = simulate(15, 80, units, share, stable, candidate)
    median = np.median(decided(sample, Question(direction=1, center=stable), 0.05))

    assert expected * 0.8 <= median <= expected * 1.2


@pytest.mark.parametrize(("stable", "candidate", "bar"), [(0.8, 0.6, 60), (0.95, 0.65, 20)])
def test_harm_at_a_tenth_of_traffic_is_found_within_the_bar_of_candidate_sessions(stable, candidate, bar):
    sample = simulate(16, 150, 3000, 0.1, stable, candidate)
    found = decided(sample, Question(direction=-1, center=stable), 0.01)

    assert np.median([sample.candidate[run, :n].sum() for run, n in enumerate(found)]) <= bar


def test_half_the_cost_is_proven_within_the_sessions_of_the_reference():
    rng = np.random.default_rng(17)
    arm = rng.random((60, 1500)) < 0.5
    cost = np.minimum(rng.lognormal(-0.35, 0.83, arm.shape) * np.where(arm, 0.5, 1.0) / 20, 1)
    sample = Sample(arm, np.full(arm.shape, 0.5), cost, np.ones(arm.shape))

    assert 420 <= np.median(decided(sample, Question(direction=-1, center=0.05), 0.05)) <= 640


units_strategy = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.01, 0.1, 0.5, 0.9]), st.floats(0, 1)), min_size=1, max_size=40
)
questions = st.builds(
    Question,
    direction=st.sampled_from([1, -1]),
    center=st.floats(0.01, 0.99),
    null=st.floats(-0.9, 0.5),
    ratio=st.sampled_from([1.0]),
) | st.builds(
    Question, direction=st.just(-1), center=st.floats(0.01, 0.99), ratio=st.sampled_from([0.5, 1.1, 1.2])
)


def to_sample(units):
    arm, share, x = zip(*units, strict=True)
    return Sample.of(list(arm), list(share), list(x))


@LAW
@given(units=units_strategy, question=questions)
def test_no_outcome_can_bankrupt_a_bet(units, question):
    assert (difference_returns(to_sample(units), question) >= -1 - 1e-9).all()


@LAW
@given(units=units_strategy, question=questions, seed=st.integers(0, 2**32))
def test_the_order_of_units_does_not_matter(units, question, seed):
    shuffled = list(units)
    np.random.default_rng(seed).shuffle(shuffled)

    assert math.isclose(
        log_e_difference(to_sample(units), question),
        log_e_difference(to_sample([tuple(unit) for unit in shuffled]), question),
        rel_tol=1e-9,
        abs_tol=1e-9,
    )


@LAW
@given(units=units_strategy, question=questions, repeat=st.integers(1, 5))
def test_a_counted_row_is_as_many_units(units, question, repeat):
    arm, share, x = zip(*units, strict=True)
    counted = Sample.of(list(arm), list(share), list(x), [repeat] * len(units))
    plain = to_sample(list(units) * repeat)

    assert math.isclose(
        log_e_difference(counted, question), log_e_difference(plain, question), rel_tol=1e-9, abs_tol=1e-9
    )


@LAW
@given(units=units_strategy, question=questions, cut=st.integers(0, 40))
def test_sums_of_parts_are_the_sum_of_the_whole(units, question, cut):
    returns = difference_returns(to_sample(units), question)
    ones = np.ones(len(units))
    parts = log_products(returns[:cut], ones[:cut]) + log_products(returns[cut:], ones[cut:])

    np.testing.assert_allclose(parts, log_products(returns, ones), rtol=1e-9, atol=1e-9)


@LAW
@given(units=units_strategy, center=st.floats(0.01, 0.99), low=st.floats(-0.9, 0.4), step=st.floats(0, 0.5))
def test_a_stricter_null_is_never_easier_to_reject(units, center, low, step):
    easy = Question(direction=1, center=center, null=low)
    strict = Question(direction=1, center=center, null=low + step)
    sample = to_sample(units)

    assert log_e_difference(sample, strict) <= log_e_difference(sample, easy) + 1e-9


@LAW
@given(units=units_strategy, center=st.floats(0.01, 0.99), gain=st.floats(0, 1))
def test_a_better_candidate_outcome_never_lowers_the_evidence_for_it(units, center, gain):
    question = Question(direction=1, center=center)
    better = [(arm, share, max(x, gain) if arm else x) for arm, share, x in units]

    assert (
        log_e_difference(to_sample(better), question) >= log_e_difference(to_sample(units), question) - 1e-9
    )


@LAW
@given(units=units_strategy, center=st.floats(0.01, 0.99))
def test_harm_is_superiority_of_the_opposite_outcome(units, center):
    sample = to_sample(units)
    opposite = Sample(sample.candidate, sample.share, 1 - sample.x, sample.count)
    harm = log_e_difference(sample, Question(direction=-1, center=center))
    superiority = log_e_difference(opposite, Question(direction=1, center=1 - center))

    assert math.isclose(harm, superiority, rel_tol=1e-6, abs_tol=1e-6)


@LAW
@given(units=units_strategy)
def test_a_level_says_nothing_about_the_stable_arm(units):
    sample = to_sample(units)

    assert (level_returns(sample, 0.95, 1)[~sample.candidate] == 0).all()
    assert (level_returns(sample, 0.95, 1) >= -1 - 1e-9).all()


def test_a_budget_held_by_every_twentieth_answer_too_few_is_passed_in_at_most_alpha_of_runs():
    rng = np.random.default_rng(18)
    x = (rng.random((200, 2000)) < 0.95).astype(float)
    sample = Sample(np.ones(x.shape, dtype=bool), np.full(x.shape, 0.5), x, np.ones(x.shape))

    assert (first_crossing(log_e_paths(level_returns(sample, 0.95, 1)), 0.05) < NEVER).mean() <= 0.05


def test_no_units_are_no_evidence():
    empty = Sample.of([], [], [])

    assert log_e_difference(empty, SUPERIOR) == pytest.approx(0)
    assert log_e_level(empty, 0.95, 1) == pytest.approx(0)
    low, high = difference_interval(empty, 0.5, 0.05)
    assert low == pytest.approx(-1)
    assert high == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_interval_holds_the_estimate_and_narrows(seed):
    rng = np.random.default_rng(seed)
    arm = rng.random(4000) < 0.5
    x = (rng.random(4000) < np.where(arm, 0.9, 0.8)).astype(float)
    share = np.full(4000, 0.5)
    few = difference_interval(Sample.of(arm[:400], share[:400], x[:400]), 0.8, 0.05)
    many_sample = Sample.of(arm, share, x)
    many = difference_interval(many_sample, 0.8, 0.05)
    estimate = many_sample.mean(candidate=True) - many_sample.mean(candidate=False)

    assert many[0] < estimate < many[1]
    assert many[1] - many[0] < few[1] - few[0]


def test_the_interval_covers_the_truth_at_every_look_in_most_runs():
    misses = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        arm = rng.random(1500) < 0.3
        x = (rng.random(1500) < np.where(arm, 0.7, 0.8)).astype(float)
        looks = [
            difference_interval(Sample.of(arm[:n], np.full(n, 0.3), x[:n]), 0.8, 0.05)
            for n in (50, 150, 400, 800, 1500)
        ]
        misses += any(not low <= -0.1 <= high for low, high in looks)

    assert misses / 40 <= 0.05
