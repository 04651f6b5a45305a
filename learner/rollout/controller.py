"""Decides every running rollout and acts through the gateway. `learner.process` sees to it that one does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config.types import Config
from gateway.errors import OperationError, RefusedError
from gateway.paths import paths_of
from learner.rollout.control import Control, RouteRollout, RunningRollout, running
from learner.rollout.decision import Decision, decide, evidence_record
from learner.rollout.evidence import Evidence, read_evidence
from learner.rollout.judges import Watched, watch_judges
from learner.rollout.policy import FrozenPolicy, read_policy
from learner.rollout.state import Proposal, Report, read_proposals, write_proposals, write_reports

if TYPE_CHECKING:
    from gateway.traces.store import Store

WHO = "controller"

log = logging.getLogger(__name__)

_VERBS = {
    "promote": "promoted",
    "rollback": "rolled back",
    "raise_share": "raised",
    "inconclusive": "concluded",
}
_CALLS = {"promote": "promote", "rollback": "rollback", "raise_share": "weight", "inconclusive": "conclude"}


def step(config: Config, store: Store, control: Control, now: Callable[[], datetime]) -> list[Report]:
    """Decide each running rollout once, and do what its route's autonomy allows.

    Evidence that cannot be read and a version that went stale are reported, not raised: the next step reads
    again. Raises OperationError when the gateway itself does not answer.
    """
    state = paths_of(config).state
    held = read_proposals(state)
    kept: dict[str, Proposal] = {}
    reports: dict[str, Report] = {}
    for entry in running(control):
        if entry.rollout is None:
            continue
        report, proposal = _step_one(
            config, store, control, entry, entry.rollout, held.get(entry.route), now()
        )
        reports[entry.route] = report
        if proposal is not None:
            kept[entry.route] = proposal
    write_proposals(state, kept)
    write_reports(state, reports)
    return list(reports.values())


def assess(
    store: Store, running_rollout: RunningRollout, now: datetime
) -> tuple[Decision, Evidence, FrozenPolicy]:
    """What the evidence says about one rollout now. Raises StoreError or PolicyUnreadableError."""
    policy = read_policy(running_rollout.rollout, running_rollout.policy)
    evidence = read_evidence(
        store,
        running_rollout.rollout,
        policy,
        share=running_rollout.share,
        paused=running_rollout.paused,
        now=now,
    )
    return decide(evidence, policy), evidence, policy


def _step_one(
    config: Config,
    store: Store,
    control: Control,
    entry: RouteRollout,
    rollout: RunningRollout,
    held: Proposal | None,
    now: datetime,
) -> tuple[Report, Proposal | None]:
    try:
        decision, evidence, policy = assess(store, rollout, now)
        watched = watch_judges(config, store, rollout.rollout, policy)
    except OperationError as error:
        # A promotion that was held on older evidence waits with the ramp.
        return _report(entry, rollout, now, "blind", None, str(error)), None
    record = {**evidence_record(decision, evidence, policy), **watched.record()}
    report, proposal = _follow(config, control, entry, rollout, decision, record, watched, held, now)
    return msgspec.structs.replace(report, gap=watched.gap), proposal


def _follow(
    config: Config,
    control: Control,
    entry: RouteRollout,
    rollout: RunningRollout,
    decision: Decision,
    record: dict[str, Any],
    watched: Watched,
    held: Proposal | None,
    now: datetime,
) -> tuple[Report, Proposal | None]:
    """Do what the route's autonomy, and what its judge may do, let us."""
    autonomy = _autonomy(config, entry.route)
    if decision.kind == "wait":
        return _report(entry, rollout, now, "waiting", decision), None
    if decision.kind == "promote" and watched.refusal is not None:
        return _report(entry, rollout, now, "waiting", decision, watched.refusal), None
    if autonomy == "observe" and decision.kind != "rollback":
        return _report(entry, rollout, now, "observed", decision), None
    if autonomy == "ask" and decision.kind == "promote":
        known = held is not None and held.rollout == rollout.rollout
        proposal = held if known else _propose(entry, rollout, decision, record, now)
        return _report(entry, rollout, now, "proposed", decision), proposal
    return _act(control, entry, rollout, decision, record, now), None


def _act(
    control: Control,
    entry: RouteRollout,
    rollout: RunningRollout,
    decision: Decision,
    record: dict[str, Any],
    now: datetime,
) -> Report:
    body: dict[str, Any] = {
        "version": entry.version,
        "who": WHO,
        "why": decision.why,
        "evidence": record,
    }
    if decision.share is not None:
        body["share"] = decision.share
    try:
        control.act(rollout.rollout, _CALLS[decision.kind], body)
    except RefusedError as error:
        return _report(entry, rollout, now, "stale", decision, str(error))
    log.info("route %s: %s %s: %s", entry.route, _VERBS[decision.kind], rollout.snapshot, decision.why)
    return _report(entry, rollout, now, _VERBS[decision.kind], decision)


def _propose(
    entry: RouteRollout,
    rollout: RunningRollout,
    decision: Decision,
    record: dict[str, Any],
    now: datetime,
) -> Proposal:
    log.info(
        "route %s: %s may be promoted: %s; accept it with `tracetune rollout promote --route %s`",
        entry.route,
        rollout.snapshot,
        decision.why,
        entry.route,
    )
    return Proposal(
        route=entry.route,
        rollout=rollout.rollout,
        snapshot=rollout.snapshot,
        at=now,
        why=decision.why,
        evidence=record,
    )


def _autonomy(config: Config, route: str) -> str:
    configured = config.route(route)
    return configured.rollout.autonomy if configured is not None else "observe"


def _report(
    entry: RouteRollout,
    rollout: RunningRollout,
    now: datetime,
    action: str,
    decision: Decision | None,
    error: str | None = None,
) -> Report:
    return Report(
        route=entry.route,
        rollout=rollout.rollout,
        snapshot=rollout.snapshot,
        at=now,
        share=rollout.share,
        action=action,
        decision=decision,
        error=error,
    )
