"""Evidence is read from a real store, by the rules that `learner.rollout.sql` states."""

from __future__ import annotations

import random
from datetime import timedelta

import msgspec
import pytest

from learner.errors import LearnerRefusedError
from learner.rollout.baseline import measure_baseline
from learner.rollout.decision import decide
from learner.rollout.eprocess import Question, Sample, log_e_difference
from learner.rollout.evidence import read_evidence
from tests.learner.rollout.support import frozen
from tests.learner.rollout.world import NOW, START, World


@pytest.fixture
def store(clean_store):
    return clean_store


def rows(sample: Sample) -> set[tuple]:
    return set(
        zip(
            sample.candidate.tolist(),
            sample.share.tolist(),
            sample.x.tolist(),
            sample.count.tolist(),
            strict=True,
        )
    )


def test_a_unit_is_one_outcome_the_mean_over_its_answers(store):
    world = World(store, "ro-mean")
    world.trace("a", "candidate", score=1.0, latency_ms=250.0)
    world.trace("a", "candidate", score=0.5, latency_ms=750.0, after_s=30)
    world.trace("b", "stable", score=0.25)
    found = world.read()

    assert rows(found.samples["quality"]) == {(True, 0.1, 0.75, 1), (False, 0.1, 0.25, 1)}
    assert rows(found.samples["latency"]) == {(True, 0.1, 0.2, 1), (False, 0.1, 0.1, 1)}
    assert rows(found.samples["cost"]) == {(True, 0.1, 0.5, 1), (False, 0.1, 0.25, 1)}
    assert found.units == (1, 1)


@pytest.mark.parametrize("outcome", ["upstream_error", "timeout", "truncated"])
def test_a_failed_answer_is_worthless_and_infinitely_slow(store, outcome):
    world = World(store, f"ro-{outcome}")
    world.trace("a", "candidate", score="none", outcome=outcome, status=502, latency_ms=1.0, cost_usd=None)
    found = world.read()

    assert rows(found.samples["quality"]) == {(True, 0.1, 0.0, 1)}
    assert rows(found.samples["latency"]) == {(True, 0.1, 1.0, 1)}
    assert rows(found.samples["success"]) == {(True, 0.1, 0.0, 1)}
    assert found.first_answers[0].broken


def test_an_answer_by_a_fallback_counts_for_the_arm_that_was_drawn_and_as_its_failure(store):
    world = World(store, "ro-fallback")
    world.trace("a", "candidate", upstream="frontier", model="big", score=1.0)
    found = world.read()

    assert rows(found.samples["quality"]) == {(True, 0.1, 1.0, 1)}
    assert rows(found.samples["success"]) == {(True, 0.1, 0.0, 1)}
    assert found.first_answers[0].broken


def test_pinned_cancelled_and_refused_requests_are_no_outcomes(store):
    world = World(store, "ro-gone")
    world.trace("pinned", "candidate", propensity=None)
    world.trace("left", "candidate", outcome="client_cancelled", status=499)
    world.trace("refused", "stable", outcome="rejected", status=400)
    found = world.read()

    assert {name: rows(sample) for name, sample in found.samples.items() if sample.count.size} == {}
    assert found.units == (1, 1)  # whose client left was assigned all the same; whose arm was chosen was not
    assert found.recent_answers == []


def test_an_imported_trace_is_no_evidence_whatever_it_claims_to_be(store):
    world = World(store, "ro-imported")
    world.trace("a", "candidate", score=0.5)
    world.trace("b", "stable", score=0.5)
    alone = world.read()
    imported = World(store, "ro-imported", version="v9")
    for number, (session, arm) in enumerate([("a", "candidate"), ("c", "candidate"), ("d", "stable")]):
        imported.trace(session, arm, trace_id=f"i{number}", imported=True)
        imported.judge(f"i{number}", 1.0, at=NOW + timedelta(minutes=1))
    store.insert("traces", imported.traces, token="t-imported")
    store.insert("judgments", imported.judgments, token="j-imported")
    found = read_evidence(store, "ro-imported", world.policy, share=0.1, paused=False, now=NOW)

    assert {name: rows(sample) for name, sample in found.samples.items()} == {
        name: rows(sample) for name, sample in alone.samples.items()
    }
    assert (found.units, found.judge_version, found.figures) == (alone.units, "v1", alone.figures)
    assert (found.recent_answers, found.first_answers) == (alone.recent_answers, alone.first_answers)


def test_the_baseline_counts_no_imported_trace(store):
    world = World(store, "ro-base-imported")
    for i in range(30):
        world.trace(f"s{i}", "stable", rollout=None, route="old", imported=i >= 20)
    world.read()
    ask = {"route": "old", "sticky_by": "session", "judge": "resolved", "judge_version": "v1", "now": NOW}

    assert measure_baseline(store, variant="stable", **ask).units == 20


def test_an_abstention_is_missing_and_never_zero(store):
    world = World(store, "ro-abstain")
    world.trace("a", "candidate", score=None)
    world.trace("b", "candidate", score="none")
    world.trace("c", "candidate", score=None)
    world.trace("c", "candidate", score=1.0)
    found = world.read()

    assert rows(found.samples["quality"]) == {(True, 0.1, 1.0, 1)}
    assert found.units == (3, 0)
    assert [(s.candidate, s.stable) for s in found.covered] == [(1, 0)]


def test_only_the_frozen_judge_counts_and_its_last_word_on_a_trace(store):
    world = World(store, "ro-versions")
    trace = world.trace("a", "candidate", score="none")
    world.judge(trace, 0.0, at=NOW - timedelta(minutes=9))
    world.judge(trace, 1.0, at=NOW - timedelta(minutes=5))
    world.judge(trace, 0.5, version="v2", at=NOW - timedelta(minutes=1))
    world.judge(trace, 0.5, judge="other")
    found = world.read()

    assert rows(found.samples["quality"]) == {(True, 0.1, 1.0, 1)}
    assert found.judge_version == "v2"
    assert decide(found, world.policy).kind == "inconclusive"


def test_a_unit_counts_once_its_window_has_closed(store):
    world = World(store, "ro-mature")
    world.trace("a", "candidate", after_s=0)
    world.trace("a", "candidate", after_s=599, score=0.0)
    world.trace("a", "candidate", after_s=601, score=0.0)  # outside of its window for good
    closes = START + timedelta(seconds=600 + 60)
    early, late = world.read(now=closes - timedelta(seconds=1)), world.read(now=closes)

    assert (early.units, early.maturing) == ((0, 0), 1)
    assert (late.units, late.maturing) == ((1, 0), 0)
    assert rows(late.samples["quality"]) == {(True, 0.1, 0.5, 1)}


def test_a_request_without_a_session_waits_for_no_window(store):
    world = World(store, "ro-alone")
    world.trace("ro-alone-000000", "candidate")

    assert world.read(now=START + timedelta(seconds=61)).units == (1, 0)


def test_what_comes_after_a_change_of_shares_enters_neither_arm(store):
    world = World(store, "ro-ramp")
    world.trace("stays", "candidate")
    world.trace("stays", "candidate", after_s=60, propensity=0.5, score=0.0)
    world.trace("moves", "stable")
    world.trace("moves", "candidate", after_s=60, propensity=0.5, score=0.0)
    world.trace("new", "candidate", after_s=60, propensity=0.5)
    found = world.read(share=0.5)

    assert rows(found.samples["quality"]) == {(True, 0.1, 1.0, 1), (False, 0.1, 1.0, 1), (True, 0.5, 1.0, 1)}
    assert found.step_units == 1


def test_sessions_of_one_name_from_two_clients_are_two_units(store):
    world = World(store, "ro-clients")
    world.trace("a", "candidate", client="web")
    world.trace("a", "stable", client="mobile")

    assert world.read().units == (1, 1)


def test_a_known_cost_and_an_unknown_one_make_an_unknown_sum(store):
    world = World(store, "ro-cost")
    world.trace("a", "candidate", cost_usd=None)
    world.trace("a", "candidate")
    world.trace("b", "candidate")
    world.trace("b", "candidate", outcome="upstream_error", status=500, cost_usd=None, score="none")

    found = world.read()
    assert rows(found.samples["cost"]) == {(True, 0.1, 0.25, 1)}
    assert rows(found.samples["cost_unknown"]) == {(True, 0.1, 0.25, 1)}, "and the known one is its least"
    assert (found.figures["candidate"].answers, found.figures["candidate"].priced) == (4, 2)


@pytest.mark.parametrize(
    "answer",
    [
        {"outcome": "ok"},
        {"outcome": "truncated"},
        {"outcome": "timeout", "status": 504},
        {"outcome": "upstream_error"},  # in band, after the first byte
        {"outcome": "upstream_error", "status": 500},  # nothing else came: it cannot be the cheapest session
    ],
)
def test_a_session_whose_cost_is_unknown_is_never_missing(store, answer):
    world = World(store, f"ro-{answer['outcome']}-{answer.get('status')}")
    world.trace("a", "candidate", cost_usd=None, **answer)
    world.trace("b", "stable", cost_usd=None, **answer)
    found = world.read()

    assert rows(found.samples["cost"]) == set()
    assert rows(found.samples["cost_unknown"]) == {(True, 0.1, 0.0, 1), (False, 0.1, 0.0, 1)}


def test_an_answer_whose_client_left_has_no_cost_to_know(store):
    world = World(store, "ro-gone")
    world.trace("a", "candidate", cost_usd=None, outcome="client_cancelled", status=499)
    found = world.read()

    assert rows(found.samples["cost"]) == rows(found.samples["cost_unknown"]) == set()


def test_the_same_traces_read_again_give_the_same_e_values_as_unit_by_unit(store):
    world = World(store, "ro-replay", frozen(window_s=1, settle_s=1))
    rng = random.Random(3)
    arms, shares, scores = [], [], []
    for i in range(400):
        share = 0.1 if i < 200 else 0.5
        candidate = rng.random() < share
        score = float(rng.random() < (0.9 if candidate else 0.8))
        world.trace(
            f"s{i}",
            "candidate" if candidate else "stable",
            after_s=i,
            score=score,
            propensity=share if candidate else 1 - share,
        )
        arms, shares, scores = [*arms, candidate], [*shares, share], [*scores, score]
    question = Question(direction=1, center=0.8, null=-0.1)
    by_hand = log_e_difference(Sample.of(arms, shares, scores), question)
    first, again = world.read(), world.read()

    assert log_e_difference(first.samples["quality"], question) == pytest.approx(by_hand, abs=1e-9)
    assert decide(first, world.policy) == decide(again, world.policy)
    assert first.figures["candidate"].answers == sum(arms)


def test_the_baseline_is_what_stable_did_before_and_is_refused_where_that_is_little(store):
    world = World(store, "ro-base")
    for i in range(30):
        world.trace(
            f"s{i}",
            "stable",
            rollout=None,
            route="old",
            score=float(i % 5 > 0),
            latency_ms=100.0 * (1 + i % 3),
        )
    world.read()
    ask = {"route": "old", "sticky_by": "session", "judge": "resolved", "judge_version": "v1", "now": NOW}
    baseline = measure_baseline(store, variant="stable", **ask)

    assert baseline.quality == pytest.approx(0.8)
    assert baseline.units == 30
    assert baseline.latency_ms == pytest.approx(200)
    assert baseline.latency_cap_ms == pytest.approx(600)
    assert baseline.cost_usd == pytest.approx(0.001)
    assert baseline.cost_cap_usd == pytest.approx(0.002)
    with pytest.raises(LearnerRefusedError, match="has answered 0 sessions"):
        measure_baseline(store, variant="unheard", **ask)


def test_the_policy_decides_by_requests_where_a_route_sticks_by_request(store):
    policy = msgspec.structs.replace(frozen(window_s=600, settle_s=1), sticky_by="request")
    world = World(store, "ro-request", policy)
    world.trace("a", "candidate")
    world.trace("a", "stable")

    assert world.read().units == (1, 1)
