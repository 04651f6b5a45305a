from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import judges
from judges.protocol import MAX_REASON_CHARS, read_verdict, wanted_parameters


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.integers(),
        st.text(),
        st.builds(judges.abstain, st.text()),
        st.lists(st.integers()),
        st.complex_numbers(),
    )
)
def test_every_value_is_a_score_in_0_1_or_an_abstention_with_a_one_line_reason(value: Any):
    score, reason = read_verdict(value)
    if score is None:
        assert reason
        assert "\n" not in reason
        assert len(reason) <= MAX_REASON_CHARS
    else:
        assert type(score) is float
        assert 0 <= score <= 1
        assert reason == ""


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1.0),
        (False, 0.0),
        (0.25, 0.25),
        (1, 1.0),
        (Fraction(1, 2), 0.5),
        (np.True_, 1.0),
        (np.float32(0.5), 0.5),
    ],
)
def test_bools_and_numbers_in_the_unit_interval_are_scores(value: Any, score: float):
    assert read_verdict(value) == (score, "")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "returned nan; a score is in [0, 1]"),
        (2.0, "returned 2; a score is in [0, 1]"),
        (-0.5, "returned -0.5; a score is in [0, 1]"),
        (10**400, "returned a number; a score is in [0, 1]"),
        ("yes", "returned a str; a judge returns a bool, a score in [0, 1], or None"),
        (None, "abstained"),
        (judges.abstain("nobody\nsaid"), "nobody said"),
    ],
)
def test_anything_else_is_an_abstention_that_says_what_came(value: Any, said: str):
    assert read_verdict(value) == (None, said)


def test_parameters_are_matched_by_name_and_those_with_a_default_are_the_users_own():
    def judge(feedback, trace, *, strict=True, **options): ...

    assert wanted_parameters(judge) == ("feedback", "trace")


def test_a_parameter_that_nobody_could_fill_is_named():
    def judge(trace, answer): ...

    with pytest.raises(ValueError, match="parameter 'answer' is none of trace, session, feedback"):
        wanted_parameters(judge)


def test_everything_public_is_importable_and_the_list_is_sorted():
    assert sorted(judges.__all__) == list(judges.__all__)
    public = {
        name
        for name, value in vars(judges).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("judges.")
    }
    assert public | {"Verdict", "Definition"} == set(judges.__all__)
