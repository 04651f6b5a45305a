"""The decisions a route can undergo, as pure functions: a route in, the route after it and its event out.

    start ──▶ running ──set_weight──▶ running ──promote──▶ promoted ──rollback──▶ as before `start`
                │ ▲                      │
          pause ▼ │ resume               ├─rollback──▶ as before `start`
              paused                     └─conclude──▶ as before `start`

Laws: Σ weights = 1 after every transition, the version rises by one, the variants after a rollback are the
very list that stood before the rollout started, and the candidate's share is only ever taken from stable.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.errors import RefusedError, UsageError
from gateway.table import TableRollout, TableRoute, TableVariant
from gateway.traces.types import CapturedRolloutEvent, RolloutEventKind

_WEIGHT_TOLERANCE = 1e-9


class IllegalTransitionError(RefusedError):
    """The route is not in a state that allows the decision."""


class StaleVersionError(RefusedError):
    """The decision quotes another version of the route than the one in force."""

    def __init__(self, route: str, quoted: int, current: int) -> None:
        super().__init__(
            f"route {route!r} is at version {current}, not {quoted}; read it again before you decide"
        )
        self.route = route
        self.current = current


class ShareError(UsageError):
    """A share that the route cannot give to a candidate."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What every decision records: when (microseconds, UTC), by whom, why, and on what evidence (JSON)."""

    at_us: int
    who: str
    why: str
    evidence: dict[str, Any] = {}


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """The variants that stood before *rollout* started; what its rollback restores."""

    rollout: str
    snapshot: str
    variants: list[TableVariant]


Transition = tuple[TableRoute, CapturedRolloutEvent]


def require_version(route: TableRoute, quoted: int | None) -> None:
    """Raise StaleVersionError unless *quoted* is the version in force; None quotes nothing and passes."""
    if quoted is not None and quoted != route.version:
        raise StaleVersionError(route.model, quoted, route.version)


def start(
    route: TableRoute, decision: Decision, *, rollout: str, snapshot: str, upstream: str, share: float
) -> Transition:
    """Put *snapshot* on trial at *share* of the route's units; its variant is named after it.

    Raises IllegalTransitionError when a rollout runs already or the snapshot serves the route already,
    ShareError when stable has less than *share*.
    """
    if route.rollout is not None:
        raise IllegalTransitionError(
            f"route {route.model!r} is in rollout {route.rollout.rollout} of {route.rollout.snapshot}; "
            "promote, roll back or conclude it first"
        )
    known = route.variant(snapshot)
    if known is not None and (known.stable or known.weight > 0 or known.snapshot != snapshot):
        raise IllegalTransitionError(f"route {route.model!r} has a variant {snapshot!r} in force already")
    candidate = TableVariant(
        name=snapshot, upstream=upstream, model=snapshot, snapshot=snapshot, weight=0.0, stable=False
    )
    others = [variant for variant in route.variants if variant.name != snapshot]
    trial = TableRollout(rollout=rollout, snapshot=snapshot, candidate=snapshot, paused=False, stage=0)
    variants = _shift(route.model, [*others, candidate], snapshot, share)
    return _decided(route, decision, "started", trial, variants, about=trial)


def set_weight(route: TableRoute, decision: Decision, *, share: float) -> Transition:
    """Give the candidate *share* of the units: a new stage. Raises ShareError when stable has less."""
    running = _running(route, "change the share of")
    variants = _shift(route.model, route.variants, running.candidate, share)
    if variants == route.variants:
        raise ShareError(f"the candidate of route {route.model!r} has a share of {share:g} already")
    trial = msgspec.structs.replace(running, stage=running.stage + 1)
    return _decided(route, decision, "weight", trial, variants, about=trial)


def pause(route: TableRoute, decision: Decision) -> Transition:
    """Hold the rollout where it is: shares stay, and nothing may be promoted until it is resumed."""
    running = _running(route, "pause")
    if running.paused:
        raise IllegalTransitionError(f"rollout {running.rollout} is paused already")
    trial = msgspec.structs.replace(running, paused=True)
    return _decided(route, decision, "paused", trial, route.variants, about=trial)


def resume(route: TableRoute, decision: Decision) -> Transition:
    """Let a paused rollout go on."""
    running = _running(route, "resume")
    if not running.paused:
        raise IllegalTransitionError(f"rollout {running.rollout} is not paused")
    trial = msgspec.structs.replace(running, paused=False)
    return _decided(route, decision, "resumed", trial, route.variants, about=trial)


def promote(route: TableRoute, decision: Decision) -> Transition:
    """Make the candidate stable with all of the weight; the former stable stays in reach at weight 0.

    Earlier candidates without weight leave, so that successive promotions do not pile up variants.
    """
    running = _running(route, "promote the candidate of")
    if running.paused:
        raise IllegalTransitionError(f"rollout {running.rollout} is paused; resume it before you promote")
    variants = [
        msgspec.structs.replace(
            variant,
            weight=1.0 if variant.name == running.candidate else 0.0,
            stable=variant.name == running.candidate,
        )
        for variant in route.variants
        if variant.stable or variant.name == running.candidate or not _idle_candidate(variant)
    ]
    return _decided(route, decision, "promoted", None, variants, about=running)


def rollback(route: TableRoute, decision: Decision, *, former: Former) -> Transition:
    """Restore the variants from before *former*'s rollout, whether it runs or has been promoted."""
    if route.rollout is not None and route.rollout.rollout != former.rollout:
        raise IllegalTransitionError(
            f"route {route.model!r} is in rollout {route.rollout.rollout}; roll that one back first"
        )
    return _decided(route, decision, "rolled_back", None, former.variants, about=former)


def conclude(route: TableRoute, decision: Decision, *, former: Former) -> Transition:
    """End the rollout without a verdict: stable keeps the route."""
    running = _running(route, "conclude")
    assert former.rollout == running.rollout, "the history belongs to another rollout"
    return _decided(route, decision, "inconclusive", None, former.variants, about=former)


def drop_overlay(
    route: TableRoute, decision: Decision, *, configured: list[TableVariant], last: Former
) -> Transition:
    """Return to the variants of the configuration, which a person has edited; no rollout may run."""
    assert route.rollout is None, "conclude the rollout first"
    return _decided(route, decision, "overlay_dropped", None, configured, about=last)


def candidate_share(route: TableRoute) -> float:
    """The share of the units that the candidate of the running rollout has. Raises when none runs."""
    candidate = route.variant(_running(route, "read the share of").candidate)
    assert candidate is not None, "a rollout's candidate is a variant of its route"
    return candidate.weight


def _running(route: TableRoute, verb: str) -> TableRollout:
    if route.rollout is None:
        raise IllegalTransitionError(f"route {route.model!r} is in no rollout; there is nothing to {verb}")
    return route.rollout


def _idle_candidate(variant: TableVariant) -> bool:
    # Variants that rollouts made are named after their snapshot; a person's own keep their place.
    return variant.weight == 0 and variant.name == variant.snapshot


def _shift(model: str, variants: list[TableVariant], candidate: str, share: float) -> list[TableVariant]:
    """*variants* with the candidate at *share*, stable at what the others leave, everyone else untouched."""
    bystanders = math.fsum(
        variant.weight for variant in variants if not variant.stable and variant.name != candidate
    )
    available = max(0.0, 1.0 - bystanders)
    if not 0.0 <= share <= available + _WEIGHT_TOLERANCE:
        raise ShareError(
            f"a share of {share:g} does not fit: route {model!r} can give its candidate between 0 and "
            f"{available:g}, what its other variants leave"
        )
    weights = {candidate: min(share, available)}
    return [
        msgspec.structs.replace(
            variant,
            weight=max(0.0, available - weights[candidate])
            if variant.stable
            else weights.get(variant.name, variant.weight),
        )
        for variant in variants
    ]


def _decided(
    route: TableRoute,
    decision: Decision,
    kind: RolloutEventKind,
    trial: TableRollout | None,
    variants: list[TableVariant],
    *,
    about: TableRollout | Former,
) -> Transition:
    total = math.fsum(variant.weight for variant in variants)
    assert abs(total - 1) <= _WEIGHT_TOLERANCE, f"weights sum to {total}"
    assert sum(variant.stable for variant in variants) == 1, "exactly one variant is stable"
    after = msgspec.structs.replace(route, version=route.version + 1, variants=variants, rollout=trial)
    event = CapturedRolloutEvent(
        rollout=about.rollout,
        route=route.model,
        version=after.version,
        event=kind,
        snapshot=about.snapshot,
        at_us=decision.at_us,
        who=decision.who,
        why=decision.why,
        evidence={**decision.evidence, "table": msgspec.to_builtins(variants)},
    )
    return after, event
