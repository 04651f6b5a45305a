"""The overlay: what rollouts decided about each route, laid over the YAML, and when a person's edit ends it.

Pure. `gateway.overlay_file` keeps it on disk. An entry counts only for the YAML variants it was decided on
(`base`); editing them ends a running rollout as inconclusive and drops what was decided, with events. The
entry itself stays, so that a route's version never goes back and an old quote can never fit again.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from gateway import rollouts
from gateway.config.types import Config, Route
from gateway.rollouts import Decision, Former, IllegalTransitionError
from gateway.table import TableRoute, TableVariant, build_table, configured_variants
from gateway.traces.types import CapturedRolloutEvent

MAX_HISTORY = 50  # promotions that can be rolled back one after the other; older ones are forgotten

Action = Literal["weight", "pause", "resume", "promote", "rollback", "conclude"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was frozen when the running rollout started."""

    policy: dict[str, Any]
    started_at_us: int
    who: str
    why: str


class OverlayEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One route's decisions.

    `events` are those of the last write. They are emitted again at each start, because a worker may have been
    killed after it saved a decision and before it recorded it.
    """

    base: str
    route: TableRoute
    history: list[Former]
    trial: Trial | None
    events: list[CapturedRolloutEvent]


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """All entries by route."""

    format: Literal[1] = 1
    routes: dict[str, OverlayEntry] = {}


def with_entry(overlay: Overlay, entry: OverlayEntry) -> Overlay:
    """*overlay* with *entry* in place of its route's former one."""
    return msgspec.structs.replace(overlay, routes={**overlay.routes, entry.route.model: entry})


def entry_of(overlay: Overlay, config: Config, model: str) -> OverlayEntry | None:
    """The entry that holds for *model* under *config*; None where *config* has no such route.

    A route without an entry that holds has one at the version last known and with the YAML's variants.
    """
    route = config.route(model)
    if route is None:
        return None
    entry = overlay.routes.get(model)
    if entry is not None and _holds(entry, route, config):
        return entry
    configured = build_table(config, {}).routes[model]
    version = entry.route.version if entry is not None else 0
    return OverlayEntry(
        base=base_of(route),
        route=msgspec.structs.replace(configured, version=version),
        history=[],
        trial=None,
        events=[],
    )


def overrides(overlay: Overlay, config: Config) -> dict[str, TableRoute]:
    """The routes whose decisions hold under *config*, for `gateway.table.build_table`."""
    entries = [entry_of(overlay, config, model) for model in overlay.routes]
    return {entry.route.model: entry.route for entry in entries if entry is not None}


def start(
    entry: OverlayEntry,
    decision: Decision,
    *,
    rollout: str,
    snapshot: str,
    upstream: str,
    share: float,
    policy: dict[str, Any],
) -> OverlayEntry:
    """Start a rollout; see `gateway.rollouts.start` for what it raises."""
    policy_event = msgspec.structs.replace(decision, evidence={**decision.evidence, "policy": policy})
    route, event = rollouts.start(
        entry.route, policy_event, rollout=rollout, snapshot=snapshot, upstream=upstream, share=share
    )
    former = Former(rollout=rollout, snapshot=snapshot, variants=entry.route.variants)
    return msgspec.structs.replace(
        entry,
        route=route,
        history=[*entry.history, former][-MAX_HISTORY:],
        trial=Trial(policy=policy, started_at_us=decision.at_us, who=decision.who, why=decision.why),
        events=[event],
    )


def act(entry: OverlayEntry, action: Action, decision: Decision, *, share: float | None) -> OverlayEntry:
    """Decide about the rollout that runs, or (rollback only) that was promoted last.

    Raises IllegalTransitionError or ShareError as the transition does. `share` is for `weight` only.
    """
    history, trial = entry.history, entry.trial
    if action == "weight":
        assert share is not None, "the caller checks that weight has a share"
        route, event = rollouts.set_weight(entry.route, decision, share=share)
    elif action == "pause":
        route, event = rollouts.pause(entry.route, decision)
    elif action == "resume":
        route, event = rollouts.resume(entry.route, decision)
    elif action == "promote":
        route, event = rollouts.promote(entry.route, decision)
        trial = None
    else:
        former = _last(entry)
        end = rollouts.rollback if action == "rollback" else rollouts.conclude
        route, event = end(entry.route, decision, former=former)
        history, trial = history[:-1], None
    return msgspec.structs.replace(entry, route=route, history=history, trial=trial, events=[event])


def reconcile(overlay: Overlay, config: Config, at_us: int) -> tuple[Overlay, list[CapturedRolloutEvent]]:
    """*overlay* after a person edited the YAML to *config*, and the events of what that ended."""
    routes, events = dict(overlay.routes), list[CapturedRolloutEvent]()
    for model, entry in overlay.routes.items():
        route = config.route(model)
        if route is not None and _holds(entry, route, config):
            continue
        base = base_of(route) if route is not None else ""
        if base == entry.base and not entry.history:
            continue  # already dropped: only the version is kept
        routes[model] = _dropped(entry, route, base, at_us)
        events += routes[model].events
    return msgspec.structs.replace(overlay, routes=routes), events


def base_of(route: Route) -> str:
    """Identifies the variants that a person wrote for *route*."""
    return hashlib.sha256(msgspec.json.encode(configured_variants(route))).hexdigest()[:16]


def unknown_upstream(variants: list[TableVariant], config: Config) -> str | None:
    """The first upstream that *variants* need and *config* lacks."""
    known = {upstream.name for upstream in config.upstreams}
    return next((variant.upstream for variant in variants if variant.upstream not in known), None)


def _holds(entry: OverlayEntry, route: Route, config: Config) -> bool:
    return entry.base == base_of(route) and unknown_upstream(entry.route.variants, config) is None


def _last(entry: OverlayEntry) -> Former:
    if not entry.history:
        raise IllegalTransitionError(
            f"route {entry.route.model!r} has no rollout to go back on: it serves what the configuration says"
        )
    return entry.history[-1]


def _dropped(entry: OverlayEntry, route: Route | None, base: str, at_us: int) -> OverlayEntry:
    why = "the route left the configuration" if route is None else "the route's configuration was edited"
    decision = Decision(at_us=at_us, who="configuration", why=why)
    current, events = entry.route, list[CapturedRolloutEvent]()
    if current.rollout is not None:
        current, event = rollouts.conclude(current, decision, former=_last(entry))
        events.append(event)
    configured = configured_variants(route) if route is not None else current.variants
    if entry.history:
        last = entry.history[-1]
        current, event = rollouts.drop_overlay(current, decision, configured=configured, last=last)
        events.append(event)
    current = msgspec.structs.replace(current, variants=configured)
    return OverlayEntry(base=base, route=current, history=[], trial=None, events=events)
