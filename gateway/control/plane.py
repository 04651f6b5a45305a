"""What the control API's handlers share: the worker's state, and the one way to decide about a route."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from gateway import overlay as layer
from gateway.config.types import Config
from gateway.data_plane.auth import Client
from gateway.data_plane.errors import ApiError, not_permitted
from gateway.overlay import Action, Overlay, OverlayEntry
from gateway.rollouts import Decision, IllegalTransitionError, require_version
from gateway.state import State
from gateway.watch import Watch


class ControlPlane:
    """Control of one worker. A decision is written to disk first, and in force here when the call returns."""

    def __init__(self, state: State, watch: Watch) -> None:
        self.state = state
        self.watch = watch

    async def start(
        self,
        client: Client,
        decision: Decision,
        *,
        route: str,
        snapshot: str,
        upstream: str,
        share: float,
        policy: dict[str, Any],
        version: int | None,
    ) -> tuple[str, OverlayEntry]:
        """Start a rollout; its id and the route's entry. Raises ApiError and what `rollouts.start` does."""
        config = self.state.live.config
        if upstream not in {known.name for known in config.upstreams}:
            known_names = ", ".join(known.name for known in config.upstreams)
            raise _unprocessable(f"unknown upstream {upstream!r}; known: {known_names}", "upstream")
        rollout = f"ro-{secrets.token_hex(6)}"

        def change(overlay: Overlay) -> OverlayEntry:
            entry = _entry(overlay, config, client, route)
            require_version(entry.route, version)
            return layer.start(
                entry,
                decision,
                rollout=rollout,
                snapshot=snapshot,
                upstream=upstream,
                share=share,
                policy=policy,
            )

        return rollout, await self._decide(config, change)

    async def act(
        self,
        client: Client,
        decision: Decision,
        action: Action,
        *,
        rollout: str,
        version: int,
        share: float | None,
    ) -> OverlayEntry:
        """Decide about *rollout*. Raises ApiError 404 for one that no route has had."""
        if (action == "weight") != (share is not None):
            raise _unprocessable("share belongs to weight, and weight needs one", "share")
        config = self.state.live.config

        def change(overlay: Overlay) -> OverlayEntry:
            entry = _entry(overlay, config, client, _route_of(overlay, rollout))
            require_version(entry.route, version)
            return layer.act(entry, action, decision, share=share)

        return await self._decide(config, change)

    async def roll_back(
        self, client: Client, decision: Decision, *, route: str, version: int
    ) -> OverlayEntry:
        """Restore the variants from before the last rollout of *route*."""
        config = self.state.live.config

        def change(overlay: Overlay) -> OverlayEntry:
            entry = _entry(overlay, config, client, route)
            require_version(entry.route, version)
            return layer.act(entry, "rollback", decision, share=None)

        return await self._decide(config, change)

    async def _decide(self, config: Config, change: Callable[[Overlay], OverlayEntry]) -> OverlayEntry:
        def checked(overlay: Overlay) -> OverlayEntry:
            entry = change(overlay)
            missing = layer.unknown_upstream(entry.route.variants, config)
            if missing is not None:
                raise IllegalTransitionError(
                    f"route {entry.route.model!r} would need upstream {missing!r}, "
                    "which the configuration lacks"
                )
            return entry

        return await self.watch.decide(checked)


def decision_by(client: Client, who: str | None, why: str, evidence: dict[str, Any]) -> Decision:
    """The record of a decision taken now. A key's name is part of who decided, whatever the caller says."""
    name = "/".join(part for part in (client.name, who) if part) or "local"
    return Decision(at_us=time.time_ns() // 1000, who=name, why=why, evidence=evidence)


def unknown_route(route: str, config: Config) -> ApiError:
    """404 that lists the routes."""
    known = ", ".join(route.model for route in config.routes)
    return ApiError(
        404,
        "invalid_request_error",
        "route_not_found",
        f"No route {route!r}. Routes: {known}.",
        param="route",
    )


def _entry(overlay: Overlay, config: Config, client: Client, route: str) -> OverlayEntry:
    """The entry of *route* that holds.

    Raises ApiError 404 and 403, and IllegalTransitionError while the overlay is of another configuration.
    """
    entry = layer.entry_of(overlay, config, route)
    if entry is None:
        raise unknown_route(route, config)
    if not client.may_use(route):
        raise not_permitted(f"This key may not use route {route!r}.")
    held = overlay.routes.get(route)
    if held is not None and held.base != entry.base:
        raise IllegalTransitionError(f"the configuration of route {route!r} is being reloaded; try again")
    return entry


def _route_of(overlay: Overlay, rollout: str) -> str:
    for model, entry in overlay.routes.items():
        if any(former.rollout == rollout for former in entry.history):
            if entry.history[-1].rollout == rollout:
                return model
            raise IllegalTransitionError(
                f"rollout {rollout} is over, and {entry.history[-1].rollout} came after it"
            )
    raise ApiError(
        404,
        "invalid_request_error",
        "rollout_not_found",
        f"No rollout {rollout!r} runs or was promoted last.",
        param="rollout",
    )


def _unprocessable(message: str, param: str) -> ApiError:
    return ApiError(422, "invalid_request_error", "invalid_value", message, param=param)
