"""What is not known to be cheap is not cheap: unknown costs neither win nor pass for being within a margin."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.config.types import Margins
from learner.rollout.decision import decide
from learner.rollout.eprocess import Sample
from learner.rollout.evidence import Evidence
from learner.rollout.guards import Split
from learner.rollout.measures import estimate, measure
from tests.learner.rollout.support import evidence, frozen

LOOKS = (100, 200, 400, 700, 1000, 1500)
POLICY = frozen(margins=Margins(quality=0.1, latency=0.2, cost=0.2), latency_budget_s=2)
FAR_CHEAPER = (0.001, 0.0001)


def hiding(found: Evidence, hidden, *, units: int | None = None) -> Evidence:
    """*found*, of its first *units* sessions, where nothing is known of the costs of those that are *hidden*."""
    samples = {
        name: Sample(s.candidate[:units], s.share[:units], s.x[:units], s.count[:units])
        for name, s in found.samples.items()
    }
    cost = samples["cost"]
    hidden = hidden(cost)
    known = Sample(cost.candidate[~hidden], cost.share[~hidden], cost.x[~hidden], cost.count[~hidden])
    nothing = np.zeros(int(hidden.sum()))
    unknown = Sample(cost.candidate[hidden], cost.share[hidden], nothing, cost.count[hidden])
    n1 = int(cost.candidate.sum())
    split = [Split(share=found.share, candidate=n1, stable=cost.candidate.size - n1)]
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    more = {
        "samples": {**samples, "cost": known, "cost_unknown": unknown},
        "assigned": split,
        "covered": split,
    }
    return Evidence(**{**fields, **more, "step_units": 0})


def all_of_the_candidate(cost: Sample):
    return cost.candidate


def all_of_stable(cost: Sample):
    return ~cost.candidate


def the_dear_half_of_the_candidate(cost: Sample):
    return cost.candidate & (cost.x > 0.25)


def the_cheap_half_of_stable(cost: Sample):
    return ~cost.candidate & (cost.x < 0.25)


def named(found: Evidence, role: str, name: str):
    return next(m for m in measure(found, POLICY) if (m.role, m.name) == (role, name))


@pytest.mark.parametrize("hidden", [all_of_the_candidate, all_of_stable])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_an_arm_whose_cost_is_unknown_is_neither_within_the_margin_nor_cheaper_nor_harmful(hidden, share):
    better = evidence(quality=(0.8, 0.95), cost_usd=FAR_CHEAPER, units=4000, share=share)
    found = hiding(better, hidden)

    assert decide(better, POLICY).kind == "promote"
    assert decide(found, POLICY).kind == "wait"
    assert not named(found, "constraint", "cost").passed
    assert not named(found, "harm", "cost").passed
    assert "cheaper" not in named(found, "objective", "improvement").claim
    assert named(hiding(evidence(cost_usd=FAR_CHEAPER), hidden), "objective", "improvement").log_e <= 0


@pytest.mark.parametrize("hidden", [the_dear_half_of_the_candidate, the_cheap_half_of_stable])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_hiding_what_speaks_against_it_promotes_in_at_most_alpha_of_runs(hidden, share):
    at_the_margin = {"quality": (0.8, 0.95), "cost_usd": (0.001, 0.0012)}
    promoted = left_out = 0
    for seed in range(30):
        found = evidence(seed=seed, units=LOOKS[-1], share=share, **at_the_margin)
        looks = [hiding(found, hidden, units=units) for units in LOOKS]
        promoted += any(decide(look, POLICY).kind == "promote" for look in looks)
        without = [Evidence(**{**vars(look), "samples": known_only(look)}) for look in looks]
        left_out += any(decide(look, POLICY).kind == "promote" for look in without)

    assert promoted / 30 <= POLICY.alpha
    assert left_out / 30 > POLICY.alpha, "what leaves such sessions out is fooled, so this test can fail"


def known_only(found: Evidence) -> dict[str, Sample]:
    return {**found.samples, "cost_unknown": Sample.of([], [], [])}


def test_unknown_costs_of_the_candidate_are_no_harm_and_known_ones_still_are():
    dear = evidence(cost_usd=(0.001, 0.003))

    assert decide(dear, POLICY).kind == "rollback"
    assert not named(hiding(dear, the_dear_half_of_the_candidate), "harm", "cost").passed
    assert named(hiding(dear, lambda cost: cost.x < 0.1), "harm", "cost").passed


def test_a_few_unknown_costs_do_not_keep_a_far_cheaper_candidate_from_its_promotion():
    found = evidence(quality=(0.8, 0.85), cost_usd=FAR_CHEAPER)
    few = hiding(found, lambda cost: np.arange(cost.x.size) % 50 == 0)

    assert decide(few, POLICY).kind == "promote"


def test_what_is_missing_names_the_setting_that_prices_are_given_in():
    found = hiding(evidence(cost_usd=FAR_CHEAPER, units=300), all_of_the_candidate)
    missing = decide(found, POLICY).missing

    assert any("the cost of 1" in line and "upstreams[].prices" in line for line in missing), missing


@pytest.mark.parametrize("hidden", [the_dear_half_of_the_candidate, the_cheap_half_of_stable])
def test_the_interval_of_the_difference_holds_whatever_the_unknown_costs_were(hidden):
    whole = evidence(cost_usd=(0.001, 0.0015))
    (true,) = [e for e in estimate(whole, POLICY) if e.name == "cost"]
    (found,) = [e for e in estimate(hiding(whole, hidden), POLICY) if e.name == "cost"]

    assert true.unknown == 0 < found.unknown
    assert found.units_candidate + found.units_stable + found.unknown == 2000
    assert true.candidate is not None
    assert true.stable is not None
    assert found.low <= true.low <= true.candidate - true.stable <= true.high <= found.high
