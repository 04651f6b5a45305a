"""What follows from the evidence on a rollout. A pure function of the evidence and the frozen policy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from learner.rollout.evidence import FIRST_ANSWERS, Answer, Evidence
from learner.rollout.measures import Estimate, Measure, estimate, measure
from learner.rollout.policy import FrozenPolicy

Kind = Literal["promote", "rollback", "raise_share", "wait", "inconclusive"]

CONSECUTIVE_FAILURES = 3  # of the candidate's own answers, while stable answers
QUIET = 0.1  # a ramp goes on while every harm e-value is below this fraction of its threshold
SHARE_TOLERANCE = 1e-6
_FOR_PROMOTION = frozenset({"constraint", "objective"})
_HOPEFUL_LOG_E = 0.5  # below it, a pace would be a guess


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a rollout now, why, and what would have to come for more."""

    kind: Kind
    why: str
    share: float | None  # the candidate's next share, of a raise
    missing: list[str]  # what a promotion still waits for, in words; empty when nothing
    measures: list[Measure]
    units_candidate: int
    units_stable: int
    maturing: int


def decide(evidence: Evidence, policy: FrozenPolicy) -> Decision:
    """Decide. A rollback outranks everything, and nothing but a rollback happens to a paused rollout."""
    measures = measure(evidence, policy)
    missing = _missing(evidence, policy, measures)
    kind, why, share = _verdict(evidence, policy, measures, missing)
    candidate, stable = evidence.units
    return Decision(
        kind=kind,
        why=why,
        share=share,
        missing=missing,
        measures=measures,
        units_candidate=candidate,
        units_stable=stable,
        maturing=evidence.maturing,
    )


def evidence_record(decision: Decision, evidence: Evidence, policy: FrozenPolicy) -> dict[str, Any]:
    """The evidence as it is written beside a decision: JSON, with estimates and intervals."""
    estimates: list[Estimate] = estimate(evidence, policy)
    record: dict[str, Any] = msgspec.to_builtins(
        {
            "decision": decision,
            "estimates": estimates,
            "answers": evidence.figures,
            "assigned": evidence.assigned,
            "share": evidence.share,
            "policy_digest": policy.digest,
        }
    )
    return record


def _verdict(
    evidence: Evidence, policy: FrozenPolicy, measures: list[Measure], missing: list[str]
) -> tuple[Kind, str, float | None]:
    harm = hard_trigger(evidence) or _all_proven(m for m in measures if m.role == "harm" and m.passed)
    if harm:
        return "rollback", harm, None
    broken = _comparison_broken(evidence, policy, measures)
    if broken:
        return "inconclusive", broken, None
    if evidence.paused:
        return "wait", "paused; resume it to go on", None
    return _progress(evidence, policy, measures, missing)


def _progress(
    evidence: Evidence, policy: FrozenPolicy, measures: list[Measure], missing: list[str]
) -> tuple[Kind, str, float | None]:
    if not missing:
        return "promote", _all_proven(m for m in measures if m.role in _FOR_PROMOTION), None
    units = sum(evidence.units)
    if units >= policy.max_units:
        why = (
            f"{units} sessions did not settle it (rollout.max_units); stable stays, for want of {missing[0]}"
        )
        return "inconclusive", why, None
    raised = next_share(evidence, policy, measures)
    if raised is not None:
        why = f"{evidence.step_units} candidate sessions at {evidence.share:.3g} without a sign of harm"
        return "raise_share", why, raised
    return "wait", missing[0], None


def hard_trigger(evidence: Evidence) -> str | None:
    """Why the candidate must go at once, without statistics; None when it need not."""
    first = evidence.first_answers
    if len(first) >= FIRST_ANSWERS and all(answer.broken or answer.score == 0 for answer in first):
        return f"none of its first {len(first)} answers was any good"
    failures: list[Answer] = []
    stable_answered = stable_failed = 0
    for answer in evidence.recent_answers:
        if not answer.candidate:
            # A server that fails both arms says nothing about the candidate.
            stable_answered += bool(failures) and not answer.broken
            stable_failed += bool(failures) and answer.broken
            continue
        if not answer.broken:
            failures, stable_answered, stable_failed = [], 0, 0
            continue
        failures.append(answer)
        if len(failures) >= CONSECUTIVE_FAILURES and not (stable_failed and not stable_answered):
            return f"{len(failures)} of its answers in a row failed (trace {answer.trace_id})"
    return None


def next_share(evidence: Evidence, policy: FrozenPolicy, measures: list[Measure]) -> float | None:
    """The next step of the ramp when this one has been stood quietly; None when there is none."""
    higher = [step for step in policy.steps if step > evidence.share + SHARE_TOLERANCE]
    allowed = [step for step in higher if step < policy.pair_share - SHARE_TOLERANCE]
    quiet = all(m.e < QUIET * m.threshold for m in measures if m.role == "harm")
    return allowed[0] if allowed and quiet and evidence.step_units >= policy.step_units else None


def _comparison_broken(evidence: Evidence, policy: FrozenPolicy, measures: list[Measure]) -> str | None:
    if evidence.judge_version is not None and evidence.judge_version != policy.judge_version:
        return (
            f"judge {policy.judge!r} changed from version {policy.judge_version} to "
            f"{evidence.judge_version} during the rollout; start another with the new one"
        )
    broken = _all_proven(m for m in measures if m.role == "guard" and m.passed)
    return f"the arms cannot be compared: {broken}" if broken else None


def _missing(evidence: Evidence, policy: FrozenPolicy, measures: list[Measure]) -> list[str]:
    candidate, stable = evidence.units
    found = []
    if candidate < policy.min_units:
        found.append(f"{policy.min_units - candidate} more candidate sessions (rollout.min_units)")
    found.extend(
        f"proof that {m.claim}: {m.e:.3g} of {m.threshold:.3g}{_pace(m, candidate + stable)}"
        for m in measures
        if m.role in _FOR_PROMOTION and not m.passed
    )
    unpriced = evidence.samples["cost_unknown"].units(candidate=True)
    if unpriced and any(m.role == "constraint" and m.name == "cost" and not m.passed for m in measures):
        found.append(
            f"the cost of {unpriced} candidate sessions, which counts as high while it is unknown "
            "(upstreams[].prices or price_per_hour)"
        )
    return found


def _pace(m: Measure, units: int) -> str:
    if m.log_e < _HOPEFUL_LOG_E or not units:
        return ""
    more = math.ceil(units * (math.log(m.threshold) / m.log_e - 1))
    return f", about {more} more sessions at this pace"


def _all_proven(measures: Iterable[Measure]) -> str:
    return "; ".join(f"{m.claim} (e-value {m.e:.3g}, {m.threshold:.3g} needed)" for m in measures)
