"""A decision follows from the evidence and the frozen policy alone."""

from __future__ import annotations

import json

import msgspec
import pytest

from gateway.config.types import Margins
from learner.rollout.decision import decide, evidence_record, hard_trigger
from learner.rollout.evidence import Answer
from learner.rollout.guards import Split, log_e_split
from learner.rollout.measures import estimate, measure
from learner.rollout.policy import PolicyUnreadableError, read_policy
from tests.learner.rollout.support import BASELINE, evidence, frozen


def answers(pattern: str) -> list[Answer]:
    """c/s: the candidate's or stable's good answer, C/S: a broken one."""
    return [
        Answer(
            trace_id=str(i),
            candidate=mark in "cC",
            broken=mark.isupper(),
            score=0.0 if mark.isupper() else 1.0,
        )
        for i, mark in enumerate(pattern)
    ]


def test_equal_quality_at_a_tenth_of_the_cost_is_promoted():
    decision = decide(evidence(quality=(0.8, 0.82), cost_usd=(0.001, 0.0001)), frozen(latency_budget_s=2))

    assert decision.kind == "promote"
    assert decision.missing == []
    assert "cheaper" in decision.why


def test_a_better_candidate_is_promoted_without_a_latency_budget():
    found = evidence(units=9000, quality=(0.8, 0.9))
    decision = decide(found, frozen(margins=Margins(quality=0.03, latency=0.1, cost=0.1)))

    assert decision.kind == "promote"
    assert "better" in decision.why


def test_a_worse_candidate_is_rolled_back():
    assert decide(evidence(quality=(0.8, 0.6), share=0.1), frozen()).kind == "rollback"


def test_harm_needs_no_other_proof_and_outranks_a_pause():
    assert decide(evidence(quality=(0.8, 0.6), paused=True), frozen()).kind == "rollback"


def test_a_candidate_that_fails_to_answer_is_rolled_back():
    decision = decide(evidence(success=(0.99, 0.7), units=300), frozen())

    assert decision.kind == "rollback"
    assert "fails to answer" in decision.why


def test_a_better_candidate_that_is_slower_than_the_margin_is_not_promoted():
    found = evidence(units=9000, quality=(0.8, 0.95), latency_ms=(500, 600))

    assert decide(found, frozen()).kind == "rollback"


def test_a_candidate_over_its_latency_budget_is_rolled_back():
    decision = decide(evidence(latency_ms=(500, 1500), cost_usd=(0.001, 0.0001)), frozen(latency_budget_s=2))

    assert decision.kind == "rollback"
    assert "2 s" in decision.why


def test_a_dearer_candidate_is_rolled_back_and_one_within_the_margin_is_not():
    assert decide(evidence(cost_usd=(0.001, 0.0015)), frozen()).kind == "rollback"
    assert decide(evidence(cost_usd=(0.001, 0.00105), share=0.5), frozen()).kind != "rollback"


def test_two_equal_arms_wait_and_say_what_is_missing():
    decision = decide(evidence(units=400), frozen(latency_budget_s=2))

    assert decision.kind == "wait"
    assert any("cheaper" in line or "better" in line for line in decision.missing)


def test_no_units_is_waiting_not_an_error():
    decision = decide(evidence(units=0, step_units=0), frozen())

    assert decision.kind == "wait"
    assert "50 more candidate sessions" in decision.why


def test_the_ramp_rises_one_step_when_the_step_was_stood_quietly():
    decision = decide(evidence(units=600, share=0.1, step_units=50), frozen())

    assert (decision.kind, decision.share) == ("raise_share", 0.25)


@pytest.mark.parametrize("found", [{"step_units": 49}, {"quality": (0.8, 0.55)}, {"paused": True}])
def test_the_ramp_waits_for_units_for_quiet_and_for_a_person(found):
    decision = decide(evidence(**{"units": 400, "share": 0.1, "step_units": 50, "seed": 2} | found), frozen())

    assert decision.kind == "wait"


def test_the_ramp_ends_at_its_last_step():
    assert decide(evidence(units=100, share=0.5, step_units=50), frozen()).kind == "wait"


def test_the_horizon_ends_a_rollout_inconclusive():
    decision = decide(evidence(units=500), frozen(max_units=500))

    assert decision.kind == "inconclusive"
    assert "max_units" in decision.why


def test_too_few_candidate_sessions_are_not_promoted():
    found = evidence(units=300, quality=(0.1, 1.0), cost_usd=(0.001, 0.0001), latency_ms=(500, 5))

    assert decide(found, frozen(min_units=200, latency_budget_s=2)).kind != "promote"


def test_a_lost_arm_ends_the_rollout_inconclusive():
    lost = [Split(share=0.5, candidate=700, stable=1000)]

    assert decide(evidence(assigned=lost), frozen()).kind == "inconclusive"
    assert decide(evidence(covered=lost), frozen()).kind == "inconclusive"


def test_a_judge_that_changes_ends_the_rollout_inconclusive():
    decision = decide(evidence(judge_version="v2"), frozen())

    assert decision.kind == "inconclusive"
    assert "v2" in decision.why


@pytest.mark.parametrize(
    ("pattern", "triggers"),
    [
        ("cscsccs", False),
        ("cCCcCC", False),
        ("scCsCsCs", True),
        ("CCC", True),
        ("cCSCSCS", False),  # stable fails too: the server is at fault, not the candidate
        ("cCSCsCS", True),
    ],
)
def test_three_own_failures_in_a_row_trigger_a_rollback(pattern, triggers):
    assert (hard_trigger(evidence(recent_answers=answers(pattern))) is not None) == triggers


def test_twenty_first_answers_that_are_all_worthless_trigger_a_rollback():
    worthless = [Answer(trace_id=str(i), candidate=True, broken=False, score=0.0) for i in range(20)]
    unjudged = [*worthless[:19], Answer(trace_id="x", candidate=True, broken=False, score=None)]

    assert decide(evidence(units=0, first_answers=worthless), frozen()).kind == "rollback"
    assert decide(evidence(units=0, first_answers=worthless[:19]), frozen()).kind == "wait"
    assert decide(evidence(units=0, first_answers=unjudged), frozen()).kind == "wait"


def test_without_a_price_cost_is_no_part_of_the_decision():
    unpriced = frozen(msgspec.structs.replace(BASELINE, cost_usd=None, cost_cap_usd=None))

    assert "cost" not in {m.name for m in measure(evidence(), unpriced)}
    assert sum(unpriced.objectives.values()) == pytest.approx(1)
    assert "cost" not in {e.name for e in estimate(evidence(), unpriced)}


def test_the_policy_survives_the_way_through_json():
    policy = frozen()

    assert read_policy("ro-1", json.loads(msgspec.json.encode(policy))) == policy
    assert read_policy("ro-1", msgspec.to_builtins(policy)).digest == policy.digest
    with pytest.raises(PolicyUnreadableError, match="ro-1"):
        read_policy("ro-1", {"alpha": "x"})


def test_the_record_of_a_decision_is_json_with_numbers_and_intervals():
    found, policy = evidence(units=1000), frozen()
    record = json.loads(json.dumps(evidence_record(decide(found, policy), found, policy), allow_nan=False))

    assert record["decision"]["kind"] == "wait"
    assert {e["name"] for e in record["estimates"]} == {"quality", "success", "latency", "cost"}
    assert all(e["low"] <= e["candidate"] - e["stable"] <= e["high"] for e in record["estimates"])


def test_arms_that_fall_as_assigned_are_believed_and_lost_units_are_noticed():
    assert log_e_split([Split(share=0.1, candidate=1000, stable=9000)]) < 0
    assert log_e_split([Split(share=0.1, candidate=800, stable=9000)]) > 6.9
    assert log_e_split([]) == 0
