"""A judge has to earn its say: each rule with a case on either side of its bound."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import JudgeConfig
from gateway.config.judges import Member
from gateway.traces.store import Store
from gateway.traces.types import Calibration
from judges.calibration.stored import latest_calibration
from judges.standing import J_GATE, J_TRAIN, ORDER_CONSISTENCY_MIN, Standing, standing_in, standing_of
from tests.support.standing import CALIBRATED_AT, a_calibration

LLM: dict[str, Any] = {"rubric": Path("rubric.yaml"), "upstream": "up", "model": "m"}
KINDS: dict[str, dict[str, Any]] = {
    "python": {"path": "judge.py:good"},
    "llm": LLM,
    "pairwise": LLM,
    "jury": {"rubric": Path("r.yaml"), "members": [Member(upstream="up", model=name) for name in ("a", "b")]},
}
ALL_ACCEPTED = ["uncalibrated_trains", "uncalibrated_gates", "weak_trains", "weak_gates"]


def a_judge(kind: Any = "python", accept: Any = ()) -> JudgeConfig:
    return JudgeConfig(name="polite", kind=kind, accept=list(accept), **KINDS[kind])


def standing(judge: JudgeConfig, calibration: Calibration | None, *, deterministic: bool = True) -> Standing:
    return standing_of(judge, "v1", deterministic, calibration)


def test_an_uncalibrated_code_judge_may_do_both_and_every_report_says_so():
    found = standing(a_judge(), None)
    assert (found.state, found.may_train, found.may_gate) == ("uncalibrated", True, True)
    for role in ("train", "gate"):
        assert found.caveat(role) == "judge 'polite' is uncalibrated; tracetune judge calibrate polite"


def test_a_code_judge_that_says_two_things_of_one_answer_may_do_neither_without_labels():
    found = standing(a_judge(), None, deterministic=False)
    assert (found.may_train, found.may_gate, found.may_what) == (False, False, "neither")
    assert "says different things of the same answer" in found.why


@pytest.mark.parametrize("kind", ["llm", "pairwise", "jury"])
def test_a_judge_of_llms_may_do_neither_without_labels_and_is_told_what_to_do(kind: str):
    found = standing(a_judge(kind), None, deterministic=True)
    assert (found.may_train, found.may_gate) == (False, False)
    assert found.refusal("train").startswith("judge 'polite' (v1) may not train: uncalibrated ")
    assert found.refusal("train").endswith(
        "`tracetune judge calibrate polite`, or write accept: [uncalibrated_trains] at it"
    )
    assert "[uncalibrated_gates]" in found.refusal("gate")


@pytest.mark.parametrize("kind", ["python", "llm", "pairwise", "jury"])
@pytest.mark.parametrize(
    ("j_low", "may_train", "may_gate"),
    [
        (J_TRAIN - 0.001, False, False),
        (J_TRAIN, True, False),
        (J_GATE - 0.001, True, False),
        (J_GATE, True, True),
        (-0.2, False, False),
        (1.0, True, True),
    ],
)
def test_the_lower_limit_of_j_decides_whatever_the_kind_and_the_estimate(
    kind: str, j_low: float, *, may_train: bool, may_gate: bool
):
    found = standing(a_judge(kind), a_calibration(j=1.0, j_low=j_low))
    assert (found.state, found.may_train, found.may_gate) == ("calibrated", may_train, may_gate)


def test_labels_that_show_a_code_judge_to_be_weak_take_away_what_it_had_without_them():
    found = standing(a_judge(), a_calibration(j=0.3, j_low=0.12))
    assert (found.may_train, found.may_gate) == (False, False)
    assert found.why == "J 0.30 on 100 labels, lower limit 0.12, under 0.4 to train and 0.6 to gate"


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_a_calibration_without_labels_calibrates_nothing(unknown: float | None):
    seen = a_calibration(labels=0, j=unknown, j_low=unknown)
    assert standing(a_judge(), seen).state == "uncalibrated"
    assert standing(a_judge(), seen).may_gate
    assert not standing(a_judge("llm"), seen).may_train


@pytest.mark.parametrize(
    ("accept", "calibration", "may_train", "may_gate"),
    [
        (["uncalibrated_trains"], None, True, False),
        (["uncalibrated_gates"], None, False, True),
        (["weak_trains", "weak_gates"], None, False, False),
        (["weak_trains"], a_calibration(j=0.4, j_low=0.2), True, False),
        (["weak_gates"], a_calibration(j=0.4, j_low=0.2), False, True),
        (["uncalibrated_trains", "uncalibrated_gates"], a_calibration(j=0.4, j_low=0.2), False, False),
    ],
    ids=["un_train", "un_gate", "weak_for_un", "weak_train", "weak_gate", "un_for_weak"],
)
def test_accept_lifts_the_bar_that_it_names_and_no_other_and_the_reports_of_that_say_so(
    accept: list[str], calibration: Calibration | None, *, may_train: bool, may_gate: bool
):
    found = standing(a_judge("llm", accept), calibration)
    assert (found.may_train, found.may_gate) == (may_train, may_gate)
    assert found.accepted == (tuple(accept) if may_train or may_gate else ())
    for role, may in (("train", may_train), ("gate", may_gate)):
        if may:
            caveat = found.caveat(role)
            assert caveat is not None
            assert caveat.startswith(f"judge 'polite' may {role} by accept: {accept[0]} alone: ")


@given(st.floats(0.6, 1), st.sampled_from(["python", "llm", "pairwise", "jury"]))
def test_what_was_earned_is_not_put_down_to_accept(j_low: float, kind: str):
    found = standing(a_judge(kind, ALL_ACCEPTED), a_calibration(j=1.0, j_low=j_low))
    assert (found.accepted, found.caveat("train"), found.caveat("gate")) == ((), None, None)


@pytest.mark.parametrize(
    ("changes", "flawed"),
    [
        ({"injected": 0.0}, False),
        ({"injected": 0.05}, True),
        ({"order_consistency": ORDER_CONSISTENCY_MIN}, False),
        ({"order_consistency": ORDER_CONSISTENCY_MIN - 0.01}, True),
        ({"problems": ["length: correlates 0.41 with length, the labels 0.05"]}, True),
        ({"problems": ["Rewards length: 0.41\nbeyond the labels'"]}, True),
        ({"problems": ["flips: 8% of repeats differ"], "flip_rate": 0.08}, False),
        ({"length_correlation": 0.5}, False),  # the labels may like long answers as much
    ],
    ids=[
        "no_injection",
        "injection",
        "order_kept",
        "order",
        "length",
        "rewards_length",
        "flips",
        "length_of_the_labels",
    ],
)
@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_a_flaw_forbids_both_whatever_j_is_and_nothing_lifts_it(
    changes: dict[str, Any], *, flawed: bool, labelled: bool
):
    numbers = {} if labelled else {"j": None, "j_low": None, "labels": 0}
    found = standing(a_judge(accept=ALL_ACCEPTED), a_calibration(**changes, **numbers))
    assert (found.may_train, found.may_gate) == (not flawed, not flawed)
    assert bool(found.flaws) == flawed
    if flawed:
        assert found.refusal("gate").endswith("correct the judge, then `tracetune judge calibrate polite`")
        assert found.flaws[0] in found.refusal("train")


@pytest.mark.parametrize(
    ("j_low", "shown"), [(0.5996, "0.59"), (0.58, "0.58"), (0.7, "0.70"), (-0.123, "-0.13"), (0.0, "0.00")]
)
def test_a_limit_under_a_bound_is_not_shown_as_the_bound(j_low: float, shown: str):
    assert f"lower limit {shown}" in standing(a_judge(), a_calibration(j_low=j_low)).why


def test_a_flaw_is_told_in_the_words_of_the_calibration_where_it_has_any():
    said = "injection: 3 of 12 cases talked it round"
    found = standing(a_judge(), a_calibration(injected=0.25, problems=[said]))
    assert found.flaws == (said,)


@given(
    st.none() | st.floats(-1, 1),
    st.lists(st.sampled_from(ALL_ACCEPTED), unique=True),
    st.sampled_from(["python", "llm", "pairwise", "jury"]),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.1]),
)
def test_who_may_not_is_never_silent_and_every_line_is_one(j_low, accept, kind, deterministic, injected):
    calibration = a_calibration(j=j_low, j_low=j_low, injected=injected)
    found = standing(a_judge(kind, accept), calibration, deterministic=deterministic)
    for role in ("train", "gate"):
        text = found.caveat(role) if found.may(role) else found.refusal(role)
        assert text is None or ("polite" in text and "\n" not in text)
        # Where nothing was earned, something is said.
        earned = j_low is not None and j_low >= (J_TRAIN if role == "train" else J_GATE) and not injected
        assert (text is None) == earned


def test_the_newest_calibration_of_the_version_is_in_force(clean_store: Store):
    judge = a_judge()
    assert latest_calibration(clean_store, "polite", "v1") is None
    assert standing_in(clean_store, judge, "v1").state == "uncalibrated"
    older, newer = a_calibration(j_low=0.1), a_calibration(calibrated_at=CALIBRATED_AT + timedelta(hours=1))
    other = a_calibration(version="v2", j_low=0.0, calibrated_at=CALIBRATED_AT + timedelta(hours=2))
    of_another = a_calibration(judge="else", j_low=0.0, calibrated_at=CALIBRATED_AT + timedelta(hours=2))
    clean_store.insert("calibrations", [newer, older, other, of_another], token="c")
    assert latest_calibration(clean_store, "polite", "v1") == newer
    assert standing_in(clean_store, judge, "v1").may_gate
    assert not standing_in(clean_store, judge, "v2").may_train
    assert standing_in(clean_store, judge, "v3").state == "uncalibrated"


def test_a_code_judge_is_taken_to_be_deterministic_until_it_was_seen_to_flip(clean_store: Store):
    steady = a_calibration(j=None, j_low=None, labels=0, flip_rate=0.0)
    flips = a_calibration(
        j=None, j_low=None, labels=0, flip_rate=0.01, calibrated_at=CALIBRATED_AT + timedelta(hours=1)
    )
    clean_store.insert("calibrations", [steady], token="a")
    assert standing_in(clean_store, a_judge(), "v1").may_train
    clean_store.insert("calibrations", [flips], token="b")
    assert not standing_in(clean_store, a_judge(), "v1").may_train
