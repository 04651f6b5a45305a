"""Makes evidence and policies for tests of decisions."""

from __future__ import annotations

import numpy as np

from gateway.config.types import Margins, RolloutPolicy
from learner.rollout.control import VariantView
from learner.rollout.eprocess import Sample
from learner.rollout.evidence import DIMENSIONS, Evidence
from learner.rollout.guards import Split
from learner.rollout.policy import Arm, Baseline, FrozenPolicy, freeze

BASELINE = Baseline(
    units=1000,
    quality=0.8,
    success=0.99,
    latency_ms=500,
    latency_cap_ms=2500,
    cost_usd=0.001,
    cost_cap_usd=0.004,
)


def variants(share: float) -> list[VariantView]:
    return [
        VariantView(
            name="stable", upstream="frontier", model="big", snapshot=None, weight=1 - share, stable=True
        ),
        VariantView(
            name="snap-1", upstream="local", model="snap-1", snapshot="snap-1", weight=share, stable=False
        ),
    ]


def frozen(baseline: Baseline = BASELINE, **policy) -> FrozenPolicy:
    policy.setdefault("margins", Margins(quality=0.1, latency=0.1, cost=0.1))
    return freeze(
        RolloutPolicy(**policy),
        route="support",
        sticky_by="session",
        candidate=Arm(variant="snap-1", upstream="local", model="snap-1"),
        variants=variants(0.5),
        judge="resolved",
        judge_version="v1",
        baseline=baseline,
    )


def outcomes(rng, arm, stable, candidate):
    """Binary outcomes with these rates."""
    return (rng.random(arm.shape) < np.where(arm, candidate, stable)).astype(float)


def evidence(
    *,
    seed: int = 1,
    units: int = 2000,
    share: float = 0.5,
    quality=(0.8, 0.8),
    success=(0.99, 0.99),
    latency_ms=(500, 500),
    cost_usd=(0.001, 0.001),
    paused: bool = False,
    step_units: int | None = None,
    **more,
) -> Evidence:
    """Evidence of *units* sessions; each pair is (stable, candidate)."""
    rng = np.random.default_rng(seed)
    arm = rng.random(units) < share
    latency = rng.gamma(4, np.where(arm, latency_ms[1], latency_ms[0]) / 4)
    cost = rng.gamma(4, np.where(arm, cost_usd[1], cost_usd[0]) / 4)
    x = {
        "quality": outcomes(rng, arm, *quality),
        "success": outcomes(rng, arm, *success),
        "latency": np.minimum(latency / BASELINE.latency_cap_ms, 1),
        "within_budget": (latency <= 2000).astype(float),
        "cost": np.minimum(cost / BASELINE.cost_cap_usd, 1),
    }
    assert {*x, "cost_unknown"} == set(DIMENSIONS)
    n1 = int(arm.sum())
    split = [Split(share=share, candidate=n1, stable=units - n1)] if units else []
    fields = {
        "share": share,
        "paused": paused,
        "samples": {
            **{name: Sample.of(arm, np.full(units, share), x[name]) for name in x},
            "cost_unknown": Sample.of([], [], []),
        },
        "assigned": split,
        "covered": split,
        "step_units": n1 if step_units is None else step_units,
        "maturing": 0,
        "first_answers": [],
        "recent_answers": [],
        "judge_version": "v1",
        "figures": {},
    }
    return Evidence(**{**fields, **more})
