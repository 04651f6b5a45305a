"""`/api/routes`, `/api/rollouts`, `/api/rollback`: the table in force and the decisions about it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.datastructures import State as AppState
from litestar.params import Parameter

from gateway import overlay as layer
from gateway.control.access import client_of, requires
from gateway.control.bodies import (
    ActBody,
    Decided,
    RollbackBody,
    Rollouts,
    RolloutView,
    Routes,
    RouteView,
    RunningRollout,
    StartBody,
)
from gateway.control.plane import ControlPlane, decision_by, unknown_route
from gateway.overlay import Action, OverlayEntry
from gateway.rollouts import candidate_share

ApiRequest = Request[Any, Any, AppState]


@get("/api/routes", guards=[requires("admin")], summary="The table in force", tags=["routes"])
async def list_routes(plane: ControlPlane) -> Routes:
    """Every route as this worker serves it now."""
    table = plane.state.live.table
    return Routes(
        table_hash=table.hash,
        routes=[
            RouteView(
                model=route.model,
                version=route.version,
                sticky_by=route.sticky_by,
                variants=route.variants,
                fallbacks=route.fallbacks,
                rollout=route.rollout,
            )
            for route in table.routes.values()
        ],
    )


@get("/api/rollouts", guards=[requires("admin")], summary="Rollouts that run", tags=["rollouts"])
async def list_rollouts(plane: ControlPlane, route: str | None = None) -> Rollouts:
    """Each route's rollout with its share, stage and frozen policy; `route` asks for one."""
    config = plane.state.live.config
    if route is not None and config.route(route) is None:
        raise unknown_route(route, config)
    overlay = await asyncio.to_thread(plane.watch.overlay.read)
    models = [route] if route is not None else [known.model for known in config.routes]
    entries = [layer.entry_of(overlay, config, model) for model in models]
    return Rollouts(rollouts=[_view(entry) for entry in entries if entry is not None])


@post("/api/rollouts", guards=[requires("admin")], summary="Start a rollout", tags=["rollouts"])
async def start_rollout(plane: ControlPlane, request: ApiRequest, data: StartBody) -> Decided:
    """Put a snapshot on trial. 409: one runs already, or `version` is stale."""
    client = client_of(request)
    rollout, entry = await plane.start(
        client,
        decision_by(client, data.who, data.why, data.evidence),
        route=data.route,
        snapshot=data.snapshot,
        upstream=data.upstream,
        share=data.share,
        policy=data.policy,
        version=data.version,
    )
    return Decided(rollout=rollout, route=data.route, version=entry.route.version)


@post(
    "/api/rollouts/{rollout:str}/{action:str}",
    guards=[requires("admin")],
    status_code=200,
    summary="Decide about a rollout",
    tags=["rollouts"],
)
async def act_on_rollout(
    plane: ControlPlane,
    request: ApiRequest,
    rollout: str,
    data: ActBody,
    action: Annotated[Action, Parameter(description="What to do: conclude ends it as inconclusive.")],
) -> Decided:
    """Change the share, pause, resume, promote, roll back or conclude. 409: `version` is stale."""
    client = client_of(request)
    entry = await plane.act(
        client,
        decision_by(client, data.who, data.why, data.evidence),
        action,
        rollout=rollout,
        version=data.version,
        share=data.share,
    )
    return Decided(rollout=rollout, route=entry.route.model, version=entry.route.version)


@post(
    "/api/rollback",
    guards=[requires("admin")],
    status_code=200,
    summary="Back to the former variants",
    tags=["rollouts"],
)
async def roll_back(plane: ControlPlane, request: ApiRequest, data: RollbackBody) -> Decided:
    """Undo the route's last rollout, whether it runs or was promoted. 409: nothing to undo, or stale."""
    client = client_of(request)
    decision = decision_by(client, data.who, data.why, data.evidence)
    entry = await plane.roll_back(client, decision, route=data.route, version=data.version)
    return Decided(rollout=entry.events[-1].rollout, route=data.route, version=entry.route.version)


def _view(entry: OverlayEntry) -> RolloutView:
    running, trial = entry.route.rollout, entry.trial
    return RolloutView(
        route=entry.route.model,
        version=entry.route.version,
        rollout=RunningRollout(
            rollout=running.rollout,
            snapshot=running.snapshot,
            candidate=running.candidate,
            share=candidate_share(entry.route),
            stage=running.stage,
            paused=running.paused,
            policy=trial.policy,
            started_at=datetime.fromtimestamp(trial.started_at_us / 1_000_000, UTC),
        )
        if running is not None and trial is not None
        else None,
    )
