"""Starts a rollout: verified and loaded where it will be served, its baseline measured, its policy frozen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from gateway.config.types import Config, LearnerConfig, Route, Upstream
from gateway.errors import UsageError
from gateway.paths import paths_of
from judges.standing import Standing
from learner.erasing import is_retired
from learner.errors import LearnerRefusedError
from learner.registry import verify_snapshot
from learner.rollout.baseline import measure_baseline
from learner.rollout.control import Control, route_view
from learner.rollout.policy import Arm, FrozenPolicy, freeze
from learner.standing import check_may, gating_standing, judge_record

if TYPE_CHECKING:
    from gateway.traces.store import Store

Publish = Callable[[str, Upstream], None]  # (snapshot, upstream): loaded and answering on every server


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout that the gateway has taken up."""

    rollout: str
    route: str
    version: int
    snapshot: str
    share: float
    policy: FrozenPolicy
    standing: Standing  # of the judge that decides


def start_rollout(
    config: Config,
    store: Store,
    control: Control,
    publish: Publish,
    *,
    route: str,
    snapshot: str,
    share: float | None,
    who: str,
    why: str,
    now: datetime,
) -> Started:
    """Put *snapshot* on trial on *route*; at the policy's first step where *share* is None.

    Raises LearnerRefusedError when a rollout runs, its judge may not gate, stable has answered too little or
    the candidate's cost would be unknown beside stable's, LearnerError when the snapshot is not what its id
    says or cannot be served, UsageError for a route without a learner.
    """
    configured, entry = learner_route(config, route)
    view = route_view(control, route)
    if view is None:
        raise UsageError(f"the running gateway has no route {route!r}; does it run on this configuration?")
    stable = next(variant for variant in view.variants if variant.stable)
    if stable.snapshot == snapshot:
        raise LearnerRefusedError(f"refused: {snapshot} is what route {route!r} serves already")
    if is_retired(store, snapshot):
        raise LearnerRefusedError(
            f"refused: {snapshot} learnt from traces that were erased; `tracetune learn run --route {route}` "
            "trains one without them"
        )
    standing = gating_standing(config, configured, store)
    check_may(standing, "gate")
    verify_snapshot(paths_of(config).snapshots, snapshot, entry.base_model)
    baseline = measure_baseline(
        store,
        route=route,
        variant=stable.name,
        sticky_by=configured.sticky_by,
        judge=standing.judge,
        judge_version=standing.version,
        now=now,
    )
    upstream = config.upstream(entry.serve_on)
    if baseline.cost_usd is not None and not _priced(upstream, snapshot):
        raise LearnerRefusedError(
            f"refused: stable's cost is known and {snapshot}'s would not be, so nothing could show that it "
            f"stays within the margin; give upstream {upstream.name!r} a price_per_hour, or prices for "
            f"{snapshot} (0 where it costs nothing)"
        )
    policy = freeze(
        configured.rollout,
        route=route,
        sticky_by=configured.sticky_by,
        candidate=Arm(variant=snapshot, upstream=upstream.name, model=snapshot),
        variants=view.variants,
        judge=standing.judge,
        judge_version=standing.version,
        baseline=baseline,
    )
    publish(snapshot, upstream)
    first = configured.rollout.steps[0] if share is None else share
    answer = control.start_rollout(
        {
            "route": route,
            "snapshot": snapshot,
            "upstream": upstream.name,
            "share": first,
            "policy": msgspec.to_builtins(policy),
            "evidence": {
                "policy_digest": policy.digest,
                "policy": msgspec.to_builtins(policy),
                "judge": judge_record(standing),
            },
            "version": view.version,
            "who": who,
            "why": why,
        }
    )
    return Started(
        rollout=answer["rollout"],
        route=route,
        version=answer["version"],
        snapshot=snapshot,
        share=first,
        policy=policy,
        standing=standing,
    )


def learner_route(config: Config, route: str) -> tuple[Route, LearnerConfig]:
    """A configured route and its learner. Raises UsageError naming those that there are."""
    configured = config.route(route)
    entry = next((entry for entry in config.learner if entry.route == route), None)
    if configured is None or entry is None:
        known = ", ".join(entry.route for entry in config.learner) or "none"
        raise UsageError(
            f"route {route!r} has no learner section, which says where to serve; routes: {known}"
        )
    return configured, entry


def _priced(upstream: Upstream, model: str) -> bool:
    return upstream.price_per_hour is not None or any(price.model == model for price in upstream.prices)
