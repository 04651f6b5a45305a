"""Which questions a policy asks of the evidence, and how far each is answered. Pure.

constraint   null: the candidate is worse than stable by its margin or more; must fall at alpha, each of them
objective    null: the candidate is better in nothing (weighted mixture); must fall at alpha
harm         null: the candidate is not worse; where one falls at harm_alpha, the candidate goes
guard        null: units and verdicts fall on the arms as they were assigned; where one falls, nothing holds

All constraints must pass, so no correction for their number is needed; the weighted mean of the objectives'
e-processes is an e-process itself. Any loss of quality or success is harm, while latency and cost only do
harm beyond their margin: that is what a person who grants a margin there means.

A cost that is not known counts as the worst it can have been for what is to be proven: never as missing, so
that an arm gains nothing from answers whose cost nobody knows.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from learner.rollout.eprocess import (
    Question,
    Sample,
    difference_interval,
    e_value,
    log_e_difference,
    log_e_level,
    log_mixture,
)
from learner.rollout.evidence import Evidence
from learner.rollout.guards import log_e_split
from learner.rollout.policy import BUDGET_LEVEL, UNKNOWN_QUALITY, FrozenPolicy

GUARD_ALPHA = 0.001

Role = Literal["constraint", "objective", "harm", "guard"]


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One question and how far it is answered: it has passed once `e` reaches `threshold`."""

    role: Role
    name: str  # "quality", "latency", "cost", "success", "assignment", "coverage", "improvement"
    claim: str  # what a pass proves, in words
    e: float
    log_e: float
    threshold: float

    @property
    def passed(self) -> bool:
        return self.log_e >= math.log(self.threshold)


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Means of matured units, and an interval of their difference that holds at all times at once."""

    name: str
    unit: str  # "score", "ms", "USD per session", "share of answers"
    candidate: float | None
    stable: float | None
    low: float
    high: float
    units_candidate: int
    units_stable: int
    unknown: int = 0  # further units of both arms; the interval holds whatever theirs was, the means do not


def measure(evidence: Evidence, policy: FrozenPolicy) -> list[Measure]:
    """Every question of *policy*, asked of *evidence*."""
    return [
        *_constraints(evidence, policy),
        *_objectives(evidence, policy),
        *_harms(evidence, policy),
        _measured(
            "guard", "assignment", "units are lost on one arm", log_e_split(evidence.assigned), GUARD_ALPHA
        ),
        _measured(
            "guard", "coverage", "verdicts are lost on one arm", log_e_split(evidence.covered), GUARD_ALPHA
        ),
    ]


def estimate(evidence: Evidence, policy: FrozenPolicy) -> list[Estimate]:
    """Means and intervals for people to read; decisions are taken on the measures."""
    caps = {
        "quality": (1.0, "score"),
        "success": (1.0, "share of answers"),
        "latency": (policy.baseline.latency_cap_ms, "ms"),
        "cost": (policy.baseline.cost_cap_usd or 0.0, "USD per session"),
    }
    centers = _centers(policy)
    found = []
    for name, (scale, unit) in caps.items():
        sample = evidence.samples[name]
        unknown = int(evidence.samples["cost_unknown"].count.sum()) if name == "cost" else 0
        if scale == 0 or not (sample.count.size or unknown):
            continue
        dear, cheap = (_cost_sample(evidence, dear=d) if unknown else sample for d in (True, False))
        low = difference_interval(cheap, centers[name], policy.alpha)[0]
        high = difference_interval(dear, centers[name], policy.alpha)[1]
        found.append(
            Estimate(
                name=name,
                unit=unit,
                candidate=_scaled(sample.mean(candidate=True), scale),
                stable=_scaled(sample.mean(candidate=False), scale),
                low=low * scale,
                high=high * scale,
                units_candidate=sample.units(candidate=True),
                units_stable=sample.units(candidate=False),
                unknown=unknown,
            )
        )
    return found


def _constraints(evidence: Evidence, policy: FrozenPolicy) -> list[Measure]:
    margin = policy.margins.quality
    question = Question(direction=1, center=_centers(policy)["quality"], null=-margin)
    log_e = log_e_difference(evidence.samples["quality"], question)
    claims = [("quality", f"quality is less than {margin:g} below stable's", log_e)]
    claims.append(_latency(evidence, policy, better=True))
    if policy.measures_cost:
        claims.append(_cost(evidence, policy, better=True))
    return [_measured("constraint", *claim, policy.alpha) for claim in claims]


def _harms(evidence: Evidence, policy: FrozenPolicy) -> list[Measure]:
    words = {
        "quality": "quality is worse than stable's",
        "success": "it fails to answer more often than stable",
    }
    claims = [
        (
            name,
            claim,
            log_e_difference(evidence.samples[name], Question(direction=-1, center=_centers(policy)[name])),
        )
        for name, claim in words.items()
    ]
    claims.append(_latency(evidence, policy, better=False))
    if policy.measures_cost:
        claims.append(_cost(evidence, policy, better=False))
    return [_measured("harm", *claim, policy.harm_alpha) for claim in claims]


def _latency(evidence: Evidence, policy: FrozenPolicy, *, better: bool) -> tuple[str, str, float]:
    """Against the absolute budget where there is one, else against stable's mean and the margin."""
    budget = policy.latency_budget_s
    if budget is not None:
        few = "95 % of answers come within" if better else "more than 5 % of answers take longer than"
        log_e = log_e_level(evidence.samples["within_budget"], BUDGET_LEVEL, 1 if better else -1)
        return "latency", f"{few} {budget:g} s", log_e
    margin = policy.margins.latency
    log_e = _log_e_ratio(evidence.samples["latency"], _centers(policy)["latency"], 1 + margin, less=better)
    return (
        "latency",
        f"mean latency is {'less' if better else 'more'} than {margin:.0%} above stable's",
        log_e,
    )


def _cost(evidence: Evidence, policy: FrozenPolicy, *, better: bool) -> tuple[str, str, float]:
    margin = policy.margins.cost
    sample = _cost_sample(evidence, dear=better)
    log_e = _log_e_ratio(sample, _centers(policy)["cost"], 1 + margin, less=better)
    return "cost", f"cost is {'less' if better else 'more'} than {margin:.0%} above stable's", log_e


def _cost_sample(evidence: Evidence, *, dear: bool) -> Sample:
    """All units, an unknown cost being the most or the least that it can be.

    If *dear* it is the candidate's that is the most, and stable's the least; otherwise the other way round.
    """
    unknown = evidence.samples["cost_unknown"]
    most = unknown.candidate == dear
    x = np.where(most, 1.0, unknown.x)
    return evidence.samples["cost"] + Sample(unknown.candidate, unknown.share, x, unknown.count)


def _objectives(evidence: Evidence, policy: FrozenPolicy) -> list[Measure]:
    center = _centers(policy)
    logs = {
        "quality": lambda: log_e_difference(
            evidence.samples["quality"], Question(direction=1, center=center["quality"])
        ),
        "latency": lambda: _log_e_ratio(evidence.samples["latency"], center["latency"], 1.0, less=True),
        "cost": lambda: _log_e_ratio(_cost_sample(evidence, dear=True), center["cost"], 1.0, less=True),
    }
    names = sorted(policy.objectives)
    values = np.array([logs[name]() for name in names])
    weights = np.array([policy.objectives[name] for name in names])
    words = {"quality": "better", "latency": "faster", "cost": "cheaper"}
    best = words[names[int(np.argmax(values + np.log(weights)))]]
    claim = f"it is {best}" if float(values.max()) > 0 else f"it is {' or '.join(words[n] for n in names)}"
    return [_measured("objective", "improvement", claim, log_mixture(values, weights), policy.alpha)]


def _log_e_ratio(sample: Sample, center: float, ratio: float, *, less: bool) -> float:
    """For "the candidate's mean is less (more) than *ratio* times stable's"."""
    return log_e_difference(sample, Question(direction=-1 if less else 1, center=center, ratio=ratio))


def _centers(policy: FrozenPolicy) -> dict[str, float]:
    baseline = policy.baseline
    return {
        "quality": baseline.quality if baseline.quality is not None else UNKNOWN_QUALITY,
        "success": baseline.success,
        "latency": baseline.latency_ms / baseline.latency_cap_ms,
        "cost": (baseline.cost_usd or 0.0) / (baseline.cost_cap_usd or 1.0),
    }


def _measured(role: Role, name: str, claim: str, log_e: float, alpha: float) -> Measure:
    return Measure(role=role, name=name, claim=claim, e=e_value(log_e), log_e=log_e, threshold=1 / alpha)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
