"""The limits are what they are called: they hold the truth as often as they say, over many calibrations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.judge_limits import CALIBRATIONS, JUDGES, held
from judges.calibration.statistics import (
    Confusion,
    confusion,
    correlation,
    kappa,
    length_correlation,
    proportion,
)

# 95 % and what chance may take off it in 2,000 tries: two and a half standard errors.
AT_LEAST = 0.95 - 2.5 * (0.95 * 0.05 / CALIBRATIONS) ** 0.5


@pytest.mark.parametrize(("good", "bad", "tpr", "tnr"), JUDGES)
def test_limits_hold_the_truth_at_their_nominal_rate(good: int, bad: int, tpr: float, tnr: float):
    found = held(good, bad, tpr, tnr, CALIBRATIONS)

    assert min(found.tpr, found.tnr, found.j, found.kappa) >= AT_LEAST, found
    assert found.j_above >= 0.96, "a judge is let train and gate by the lower limit of J"


@given(st.integers(1, 400), st.floats(0, 1))
def test_a_proportion_lies_within_its_limits(n: int, share: float):
    hits = round(n * share)
    found = proportion(hits, n)

    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.low == 0) == (hits == 0)
    assert (found.high == 1) == (hits == n)


def test_exact_limits_are_those_of_the_tables():
    """Clopper and Pearson, 8 of 10 and 0 of 10: 0.4439 to 0.9748, 0 to 0.3085."""
    found = proportion(8, 10)
    assert (round(found.low, 4), round(found.high, 4)) == (0.4439, 0.9748)
    assert round(proportion(0, 10).high, 4) == 0.3085


def test_kappa_of_a_known_table():
    """Cohen's own kind of example: 20 and 15 agreed on, 5 and 10 not: 0.4."""
    table = Confusion(passed_good=20, failed_good=5, passed_bad=10, failed_bad=15)
    assert kappa(table).value == pytest.approx(0.4)


def test_verdicts_are_counted_against_labels():
    table = confusion([True, True, False, False, True], [True, False, True, False, True])
    assert table == Confusion(passed_good=2, failed_good=1, passed_bad=1, failed_bad=1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=60))
def test_rank_correlation_knows_its_ends(pairs: list[tuple[int, int]]):
    x = [float(a) for a, _ in pairs]
    found = correlation(x, [float(b) for _, b in pairs])

    assert -1 - 1e-9 <= found <= 1 + 1e-9
    if len(set(x)) > 1:
        assert correlation(x, [2 * value + 1 for value in x]) == pytest.approx(1)
        assert correlation(x, [-value for value in x]) == pytest.approx(-1)


def test_being_longer_because_of_being_good_is_no_bias():
    labels = [True] * 50 + [False] * 50
    lengths = [200.0 + n % 7 for n in range(50)] + [50.0 + n % 7 for n in range(50)]
    fair = length_correlation([float(label) for label in labels], lengths, labels)
    by_length = length_correlation(lengths, lengths, labels)

    assert fair is not None
    assert abs(fair.value) < 0.05
    assert by_length is not None
    assert by_length.low > 0.9
