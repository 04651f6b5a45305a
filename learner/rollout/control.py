"""The part of the gateway's control API that rollouts use, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

Action = Literal["weight", "pause", "resume", "promote", "rollback", "conclude"]


class RunningRollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as the gateway has it. `policy` is JSON, frozen when it started."""

    rollout: str
    snapshot: str
    candidate: str
    share: float
    stage: int
    paused: bool
    policy: dict[str, Any]
    started_at: datetime


class RouteRollout(msgspec.Struct, frozen=True, kw_only=True):
    """A route, its version (to be quoted by every decision) and the rollout it is in."""

    route: str
    version: int
    rollout: RunningRollout | None


class VariantView(msgspec.Struct, frozen=True, kw_only=True):
    """One variant in force."""

    name: str
    upstream: str
    model: str
    snapshot: str | None
    weight: float
    stable: bool


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """A route's variants in force."""

    model: str
    version: int
    sticky_by: str
    variants: list[VariantView]


class Control(Protocol):
    """What `gateway.control.client.ControlClient` offers.

    Every call raises OperationError when no gateway answers and RefusedError when the version is stale or the
    gateway's rules forbid the decision.
    """

    def routes(self) -> dict[str, Any]: ...

    def rollouts(self, route: str | None = None) -> dict[str, Any]: ...

    def start_rollout(self, body: dict[str, Any]) -> dict[str, Any]: ...

    def act(self, rollout: str, action: str, body: dict[str, Any]) -> dict[str, Any]: ...

    def roll_back(self, body: dict[str, Any]) -> dict[str, Any]: ...


def running(control: Control, route: str | None = None) -> list[RouteRollout]:
    """Every route (or one) with its rollout."""
    return msgspec.convert(control.rollouts(route)["rollouts"], list[RouteRollout], strict=False)


def route_view(control: Control, route: str) -> RouteView | None:
    """The route's variants in force; None when the gateway does not know it."""
    views = msgspec.convert(control.routes()["routes"], list[RouteView], strict=False)
    return next((view for view in views if view.model == route), None)
