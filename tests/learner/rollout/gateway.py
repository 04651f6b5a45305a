"""The control API without sockets: the gateway's own transitions on an overlay in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway import overlay as layer
from gateway.config.types import Config
from gateway.errors import OperationError
from gateway.overlay import Overlay
from gateway.rollouts import Decision, candidate_share, require_version
from gateway.traces.types import CapturedRolloutEvent


class GatewayInMemory:
    """Implements `learner.rollout.control.Control`; `events` is what would reach the store."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.overlay = Overlay()
        self.events: list[CapturedRolloutEvent] = []
        self.down = False
        self.counter = 0

    def routes(self) -> dict[str, Any]:
        entries = [layer.entry_of(self.overlay, self.config, route.model) for route in self.config.routes]
        return {"table_hash": "t", "routes": [msgspec.to_builtins(entry.route) for entry in entries]}

    def rollouts(self, route: str | None = None) -> dict[str, Any]:
        if self.down:
            raise OperationError("no gateway answers at 127.0.0.1:1")
        models = [route] if route else [known.model for known in self.config.routes]
        return {"rollouts": [self._view(model) for model in models]}

    def start_rollout(self, body: dict[str, Any]) -> dict[str, Any]:
        self.counter += 1
        rollout = f"ro-{self.counter}"
        entry = layer.entry_of(self.overlay, self.config, body["route"])
        require_version(entry.route, body.get("version"))
        changed = layer.start(
            entry,
            self._decision(body),
            rollout=rollout,
            snapshot=body["snapshot"],
            upstream=body["upstream"],
            share=body["share"],
            policy=body["policy"],
        )
        return self._keep(changed, rollout)

    def act(self, rollout: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
        model = next(
            m for m, e in self.overlay.routes.items() if e.history and e.history[-1].rollout == rollout
        )
        entry = self.overlay.routes[model]
        require_version(entry.route, body["version"])
        return self._keep(layer.act(entry, action, self._decision(body), share=body.get("share")), rollout)

    def roll_back(self, body: dict[str, Any]) -> dict[str, Any]:
        entry = self.overlay.routes[body["route"]]
        require_version(entry.route, body["version"])
        return self._keep(layer.act(entry, "rollback", self._decision(body), share=None), "")

    def _keep(self, entry, rollout):
        self.overlay = layer.with_entry(self.overlay, entry)
        self.events += entry.events
        return {"rollout": rollout, "route": entry.route.model, "version": entry.route.version}

    def _decision(self, body):
        return Decision(
            at_us=int(datetime.now(UTC).timestamp() * 1e6),
            who=body["who"],
            why=body["why"],
            # What goes over the wire must be JSON.
            evidence=msgspec.json.decode(msgspec.json.encode(body.get("evidence", {}))),
        )

    def _view(self, model):
        entry = layer.entry_of(self.overlay, self.config, model)
        trial, current = entry.trial, entry.route.rollout
        view = {"route": model, "version": entry.route.version, "rollout": None}
        if current is not None:
            view["rollout"] = {
                **{
                    name: getattr(current, name)
                    for name in ("rollout", "snapshot", "candidate", "stage", "paused")
                },
                "share": candidate_share(entry.route),
                "policy": trial.policy,
                "started_at": "2026-11-20T10:00:00Z",
            }
        return view
