"""Whole decisions, looked at again and again: what must not be promoted rarely is, what should be usually is."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.config.types import Margins
from learner.rollout.decision import decide
from learner.rollout.eprocess import Sample
from learner.rollout.guards import Split
from tests.learner.rollout.support import evidence, frozen

LOOKS = (100, 200, 400, 700, 1000, 1500)


def until(found, units):
    """The evidence as it was after the first *units* sessions."""
    samples = {
        name: Sample(s.candidate[:units], s.share[:units], s.x[:units], s.count[:units])
        for name, s in found.samples.items()
    }
    n1 = int(found.samples["quality"].candidate[:units].sum())
    split = [Split(share=found.share, candidate=n1, stable=units - n1)]
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    return type(found)(**{**fields, "samples": samples, "assigned": split, "covered": split, "step_units": 0})


def verdicts(policy, runs, **world):
    """How each of *runs* rollouts ended when somebody looked at every step of LOOKS."""
    ends = []
    for seed in range(runs):
        found = evidence(seed=seed, units=LOOKS[-1], **world)
        kinds = (decide(until(found, units), policy).kind for units in LOOKS)
        ends.append(next((kind for kind in kinds if kind not in {"wait", "raise_share"}), "wait"))
    return np.array(ends)


POLICY = frozen(margins=Margins(quality=0.1, latency=0.2, cost=0.2), latency_budget_s=2)


@pytest.mark.parametrize(
    "world",
    [
        {},
        {"quality": (0.8, 0.7), "cost_usd": (0.001, 0.0002)},
        {"quality": (0.8, 0.95), "cost_usd": (0.001, 0.0012)},
        {"quality": (0.8, 0.95), "latency_ms": (500, 1040)},  # a twentieth of its answers beyond the budget
    ],
    ids=["equal", "quality at the margin", "cost at the margin", "latency at the budget"],
)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_has_not_earned_its_traffic_is_promoted_in_at_most_alpha_of_runs(world, share):
    ends = verdicts(POLICY, 40, share=share, **world)

    assert (ends == "promote").mean() <= POLICY.alpha


def test_an_equal_candidate_is_rarely_rolled_back():
    assert (verdicts(POLICY, 60) == "rollback").mean() <= 4 * POLICY.harm_alpha


def test_an_equal_but_far_cheaper_candidate_is_promoted():
    ends = verdicts(POLICY, 30, cost_usd=(0.001, 0.0001))

    assert (ends == "promote").mean() >= 0.7


@pytest.mark.parametrize(
    "world",
    [
        {"quality": (0.8, 0.4)},
        {"success": (0.99, 0.6)},
        {"latency_ms": (500, 1800)},
        {"cost_usd": (0.001, 0.003)},
    ],
    ids=["quality", "success", "latency", "cost"],
)
def test_a_spoilt_candidate_is_rolled_back(world):
    assert (verdicts(POLICY, 20, **world) == "rollback").mean() >= 0.95
