from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.paired import compare, mean_interval, sign_test, wilson

binary = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60
)
graded = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30)


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


# Two rows of the paper's worked table: (both, only a, only b, neither) and the limits of method 10.
@pytest.mark.parametrize(
    ("cells", "low", "high"), [((36, 12, 2, 0), 0.0569, 0.3404), ((36, 14, 0, 0), 0.1528, 0.4167)]
)
def test_the_interval_of_yes_and_no_scores_is_the_published_one(cells, low: float, high: float) -> None:
    difference = compare(*pairs(*cells)).difference
    assert difference.low == pytest.approx(low, abs=1e-4)
    assert difference.high == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize("cells", [(0.75, 0.15, 0.05, 0.05), (0.1, 0.8, 0.02, 0.08), (0.4, 0.1, 0.1, 0.4)])
def test_the_interval_holds_the_truth_in_about_95_of_100_samples(cells) -> None:
    drawn = np.random.default_rng(1).multinomial(60, cells, size=400)
    truth = cells[1] - cells[2]
    intervals = [compare(*pairs(*map(int, sample))).difference for sample in drawn]
    assert sum(interval.low <= truth <= interval.high for interval in intervals) / 400 > 0.92


@given(binary)
def test_the_interval_holds_the_difference_and_turns_around_with_the_arms(rows) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    there, back = compare(a, b), compare(b, a)
    assert -1 <= there.difference.low <= there.difference.value <= there.difference.high <= 1
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert (there.wins, there.losses, there.p_value) == (back.losses, back.wins, back.p_value)
    assert there.wins + there.losses + there.ties == len(rows)


@settings(max_examples=25, deadline=None)
@given(graded)
def test_graded_scores_get_a_repeatable_interval_around_the_difference(rows) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    assert compare(a, b) == compare(a, b)
    difference = compare(a, b).difference
    assert difference.low - 1e-9 <= difference.value <= difference.high + 1e-9


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_the_exact_binomial_one(wins: int, losses: int) -> None:
    n = wins + losses
    as_extreme = [k for k in range(n + 1) if abs(2 * k - n) >= abs(wins - losses)]
    expected = sum(Fraction(math.comb(n, k), 2**n) for k in as_extreme)
    assert sign_test(wins, losses) == pytest.approx(float(min(Fraction(1), expected)))


def test_wilson_at_the_ends_stays_in_the_unit_interval() -> None:
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)


def test_nothing_compared_says_nothing() -> None:
    assert (compare([], []).difference.low, compare([], []).difference.high) == (-1.0, 1.0)
    assert (mean_interval([]).low, mean_interval([]).high) == (0.0, 1.0)
