"""The policy of one rollout, frozen when it starts: nothing that decides may change under the evidence."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.config.types import Margins, RolloutPolicy
from gateway.errors import OperationError
from learner.rollout.control import VariantView
from learner.rollout.eprocess import GRID

# How much each kind of improvement counts towards "better in something": weights of the superiority mixture.
PRESETS: dict[str, dict[str, float]] = {
    "quality-first": {"quality": 0.8, "cost": 0.1, "latency": 0.1},
    "balanced": {"quality": 0.4, "cost": 0.4, "latency": 0.2},
    "cost-first": {"quality": 0.1, "cost": 0.8, "latency": 0.1},
}
BUDGET_LEVEL = 0.95  # a latency budget is one for the 95th percentile
UNKNOWN_QUALITY = 0.5  # center where nothing was judged before; costs some power, never validity


class PolicyUnreadableError(OperationError):
    """A running rollout carries a policy that this version cannot read."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """A variant as it stood at the start; who else answers for it is a fallback."""

    variant: str
    upstream: str
    model: str


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What stable did before the rollout: centers of the bets, and the caps that make outcomes bounded.

    Outcomes above a cap count as the cap. `None`: not measured, and then not part of the decision.
    """

    units: int
    quality: float | None
    success: float
    latency_ms: float
    latency_cap_ms: float
    cost_usd: float | None  # mean of a unit's sum
    cost_cap_usd: float | None


class FrozenPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision depends on besides the traces. Times in seconds, shares in [0, 1]."""

    route: str
    sticky_by: str
    candidate: Arm
    stable: Arm
    pair_share: float  # what candidate and stable have together; other variants keep the rest
    preset: str
    objectives: dict[str, float]
    alpha: float
    harm_alpha: float
    margins: Margins
    latency_budget_s: float | None
    steps: list[float]
    step_units: int
    min_units: int
    max_units: int
    window_s: float
    settle_s: float
    judge: str
    judge_version: str
    baseline: Baseline
    grid: list[float]

    @property
    def digest(self) -> str:
        """Twelve hex digits that identify the content."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]

    @property
    def measures_cost(self) -> bool:
        return self.baseline.cost_cap_usd is not None


def freeze(
    policy: RolloutPolicy,
    *,
    route: str,
    sticky_by: str,
    candidate: Arm,
    variants: list[VariantView],
    judge: str,
    judge_version: str,
    baseline: Baseline,
) -> FrozenPolicy:
    """The policy of a rollout of *candidate* on a route with *variants*. Pure."""
    stable = next(variant for variant in variants if variant.stable)
    others = sum(v.weight for v in variants if not v.stable and v.name != candidate.variant)
    weights = PRESETS[policy.preset]
    measured = {name for name in weights if name != "cost" or baseline.cost_cap_usd is not None}
    total = sum(weights[name] for name in measured)
    frozen = FrozenPolicy(
        route=route,
        sticky_by=sticky_by,
        candidate=candidate,
        stable=Arm(variant=stable.name, upstream=stable.upstream, model=stable.model),
        pair_share=1 - others,
        preset=policy.preset,
        objectives={name: weights[name] / total for name in sorted(measured)},
        alpha=policy.alpha,
        harm_alpha=policy.harm_alpha,
        margins=policy.margins,
        latency_budget_s=policy.latency_budget_s,
        steps=policy.steps,
        step_units=policy.step_units,
        min_units=policy.min_units,
        max_units=policy.max_units,
        window_s=policy.window_s,
        settle_s=policy.settle_s,
        judge=judge,
        judge_version=judge_version,
        baseline=baseline,
        grid=[float(fraction) for fraction in GRID],
    )
    # Through JSON's types once, so that the digest is that of what will be read back.
    return msgspec.convert(msgspec.to_builtins(frozen), FrozenPolicy)


def read_policy(rollout: str, data: Any) -> FrozenPolicy:
    """The frozen policy that a rollout carries. Raises PolicyUnreadableError naming the rollout."""
    try:
        return msgspec.convert(data, FrozenPolicy)
    except msgspec.ValidationError as error:
        raise PolicyUnreadableError(
            f"rollout {rollout}: its frozen policy cannot be read ({error}); conclude it and start another"
        ) from error
