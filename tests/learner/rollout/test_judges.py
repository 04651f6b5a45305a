"""A running rollout watches its judges: who may not gate promotes nothing, and a gap to the trainer is seen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, JudgeConfig, LearnerConfig
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.rollout.controller import step
from learner.rollout.evidence import ArmFigures
from learner.rollout.judges import ABSTENTION_BOUND, abstention_sign, watch_judges
from learner.rollout.state import read_proposals, read_reports
from tests.learner.rollout.support import frozen
from tests.learner.rollout.test_controller import Scene
from tests.learner.rollout.world import NOW, World
from tests.support.standing import calibrate

BETTER = (0.5, 0.95)


def with_judges(config: Config, *names: str, trains: str | None = None, **changes: Any) -> Config:
    judges = [JudgeConfig(name=name, path="judge.py:good", **changes) for name in names]
    learner: list[Any] = []
    if trains is not None:
        learner = [LearnerConfig(route="support", base_model=Path("base"), serve_on="local", judge=trains)]
    return msgspec.structs.replace(config, judges=judges, learner=learner)


@pytest.mark.parametrize("autonomy", ["auto", "ask", "observe"])
def test_evidence_for_a_promotion_waits_while_its_judge_may_not_gate(
    tmp_path: Path, clean_store: Store, autonomy: str
):
    scene = Scene(tmp_path, clean_store, autonomy)
    scene.config = with_judges(scene.config, "resolved")
    scene.traffic(2_000, BETTER)
    calibrate(clean_store, "resolved", "v1", j=0.6, j_low=0.5)
    (report,) = step(scene.config, clean_store, scene.gateway, lambda: NOW)

    assert report.decision is not None
    assert report.decision.kind == "promote"
    assert report.action == "waiting"
    assert report.error is not None
    assert report.error.startswith(
        "judge 'resolved' (v1) may not gate: J 0.60 on 100 labels, lower limit 0.50"
    )
    assert [event.event for event in scene.gateway.events] == ["started"]
    assert read_proposals(scene.state) == {}

    calibrate(clean_store, "resolved", "v1", j=0.9, j_low=0.8)
    (report,) = step(scene.config, clean_store, scene.gateway, lambda: NOW)
    assert report.action == {"auto": "promoted", "ask": "proposed", "observe": "observed"}[autonomy]
    if autonomy == "auto":
        assert scene.gateway.events[-1].evidence["judge"]["state"] == "calibrated"


def test_a_candidate_that_does_harm_goes_whatever_its_judge_may_do(tmp_path: Path, clean_store: Store):
    scene = Scene(tmp_path, clean_store)
    scene.config = with_judges(scene.config, "resolved")
    scene.traffic(1_000, (0.9, 0.4))
    calibrate(clean_store, "resolved", "v1", j=0.1, j_low=-0.1)
    (report,) = step(scene.config, clean_store, scene.gateway, lambda: NOW)
    assert report.action == "rolled back"
    assert "may not gate" in scene.gateway.events[-1].evidence["judge"]["note"]


def two_judges(store: Store, sessions: int, hack: float, *, trains: str = "long", turns: int = 1) -> World:
    """Both judges on the same answers: *hack* is how often the trainer alone passes the candidate's."""
    rng = random.Random(4)
    world = World(store, "ro-1", frozen(window_s=600, settle_s=60))
    for number in range(sessions):
        candidate = rng.random() < 0.5
        arm = "candidate" if candidate else "stable"
        for turn in range(turns):
            right = float(rng.random() < 0.6)
            trace = world.trace(f"s{number}", arm, after_s=number + turn / 10, score=right, propensity=0.5)
            fooled = candidate and rng.random() < hack
            world.judge(trace, 1.0 if fooled else right, judge=trains, version="t1")
    world.write()
    return world


@pytest.fixture
def config(tmp_path: Path, clean_store: Store) -> Config:
    return with_judges(Scene(tmp_path, clean_store).config, "long", "resolved", trains="long")


def test_the_gap_is_that_of_the_two_judges_on_the_same_answers(config: Config, clean_store: Store):
    world = two_judges(clean_store, 1_500, hack=0.9)
    found = watch_judges(config, clean_store, "ro-1", world.policy)
    gap = found.gap
    assert gap is not None
    scores = {(j.trace_id, j.judge): j.score for j in world.judgments}
    gains = {}
    for judge in ("long", "resolved"):
        arms: dict[bool, list[float]] = {True: [], False: []}
        for trace in world.traces:
            score = scores[trace.trace_id, judge]
            assert score is not None
            arms[trace.variant == "snap-1"].append(score)
        gains[judge] = sum(arms[True]) / len(arms[True]) - sum(arms[False]) / len(arms[False])
    assert (gap.train_gain, gap.gate_gain) == pytest.approx((gains["long"], gains["resolved"]))
    assert gap.gap.n == 1_500
    assert gap.sign is not None
    assert found.notes()[-1] == gap.sign
    assert found.record()["gap"]["train_judge"] == "long"


def test_a_session_counts_once_however_many_turns_it_has(config: Config, clean_store: Store):
    world = two_judges(clean_store, 300, hack=0.5, turns=4)
    gap = watch_judges(config, clean_store, "ro-1", world.policy).gap
    assert gap is not None
    assert gap.gap.n == 300


def test_judges_that_agree_have_no_gap_and_one_judge_none_to_look_for(config: Config, clean_store: Store):
    world = two_judges(clean_store, 400, hack=0.0)
    found = watch_judges(config, clean_store, "ro-1", world.policy)
    assert found.gap is not None
    assert (found.gap.gap.value, found.gap.sign) == (0.0, None)
    alone = with_judges(config, "resolved", trains="resolved")
    assert watch_judges(alone, clean_store, "ro-1", world.policy).gap is None


def test_what_only_one_of_them_has_judged_is_not_in_the_gap(config: Config, clean_store: Store):
    world = World(clean_store, "ro-1", frozen(window_s=600, settle_s=60))
    for number in range(40):
        arm = "candidate" if number % 2 else "stable"
        trace = world.trace(f"s{number}", arm, after_s=number, score=1.0, propensity=0.5)
        if number < 20:
            world.judge(trace, 1.0, judge="long", version="t1")
        elif number < 30:
            world.judge(trace, None, judge="long", version="t1")
    world.write()
    gap = watch_judges(config, clean_store, "ro-1", world.policy).gap
    assert gap is not None
    assert gap.gap.n == 20
    unjudged = with_judges(config, "never", "resolved", trains="never")
    assert watch_judges(unjudged, clean_store, "ro-1", world.policy).gap is None


def test_the_controller_leaves_the_gap_for_status(tmp_path: Path, clean_store: Store):
    scene = Scene(tmp_path, clean_store, "observe")
    scene.config = with_judges(scene.config, "long", "resolved", trains="long")
    two_judges(clean_store, 1_500, hack=0.9)
    step(scene.config, clean_store, scene.gateway, lambda: NOW)
    left = read_reports(paths_of(scene.config).state)["support"].gap
    assert left is not None
    assert left.alarming


def figures(abstained: int, judged: int) -> ArmFigures:
    return ArmFigures(
        answers=abstained + judged,
        failed=0,
        judged=judged,
        mean_score=0.5,
        latency_ms_p50=1.0,
        latency_ms_p95=1.0,
        priced=0,
        cost_usd_per_answer=None,
        abstained=abstained,
    )


@pytest.mark.parametrize(
    ("candidate", "stable", "told"),
    [
        ((40, 160), (10, 190), True),
        ((10, 190), (40, 160), False),  # fewer than stable
        ((2, 3), (0, 5), False),  # by chance
        ((int(1_000 * ABSTENTION_BOUND) + 1, 949), (0, 1_000), True),
        ((int(1_000 * ABSTENTION_BOUND) - 1, 951), (0, 1_000), False),  # surely more, and little
        ((0, 0), (5, 5), False),
    ],
    ids=["rising", "falling", "few", "above", "below", "none"],
)
def test_a_judge_that_abstains_more_often_on_the_candidate_is_told_of(
    candidate: tuple[int, int], stable: tuple[int, int], *, told: bool
):
    said = abstention_sign({"candidate": figures(*candidate), "stable": figures(*stable)})
    assert (said is not None) == told
    assert abstention_sign({"candidate": figures(*candidate)}) is None


def test_abstentions_are_counted_by_arm_and_what_is_not_judged_is_none(clean_store: Store):
    world = World(clean_store, "ro-1", frozen(window_s=600, settle_s=60))
    for number, score in enumerate([None, None, 1.0, "none", 0.0]):
        world.trace(f"c{number}", "candidate", after_s=number, score=score, propensity=0.5)
    world.trace("s", "stable", after_s=9, score=None, propensity=0.5)
    found = world.read(share=0.5).figures
    assert {arm: (f.abstained, f.judged) for arm, f in found.items()} == {
        "candidate": (2, 2),
        "stable": (1, 0),
    }
