"""The routing table: what the data plane needs to know, in memory, swapped as a whole.

Built from the configuration and the overlay of rollout decisions; hashed, so that every trace says which
table routed it.
"""

from __future__ import annotations

import hashlib

import msgspec

from gateway.config.types import Config, Fallback, Route, RouteTimeouts
from gateway.traces.types import CaptureLevel


class TableVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One arm as it is served now."""

    name: str
    upstream: str
    model: str  # what the upstream knows it by; for a snapshot, its id
    snapshot: str | None
    weight: float
    stable: bool


class TableRollout(msgspec.Struct, frozen=True, kw_only=True):
    """The rollout that a route is in. `candidate` is the name of the variant on trial."""

    rollout: str
    snapshot: str
    candidate: str
    paused: bool
    stage: int


class TableRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route in force. `version` rises by one with every decision and is what a control write must quote."""

    model: str
    version: int
    sticky_by: str
    variants: list[TableVariant]
    fallbacks: list[Fallback]
    capture: CaptureLevel
    rollout: TableRollout | None
    timeouts: RouteTimeouts = RouteTimeouts()

    @property
    def stable(self) -> TableVariant:
        return next(variant for variant in self.variants if variant.stable)

    def variant(self, name: str) -> TableVariant | None:
        return next((variant for variant in self.variants if variant.name == name), None)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All routes in force; `hash` identifies the content."""

    routes: dict[str, TableRoute]
    default_upstream: str | None
    hash: str


def configured_variants(route: Route) -> list[TableVariant]:
    """The variants of *route* as its YAML has them."""
    stable = route.stable.name
    return [
        TableVariant(
            name=variant.name,
            upstream=variant.upstream,
            model=variant.served_model,
            snapshot=variant.snapshot,
            weight=variant.weight,
            stable=variant.name == stable,
        )
        for variant in route.variants
    ]


def resolve_fallbacks(route: Route) -> list[Fallback]:
    """Fallbacks of *route*; a fallback that names a variant becomes that variant's upstream and model."""
    variants = {variant.name: variant for variant in route.variants}
    return [
        fallback
        if isinstance(fallback, Fallback)
        else Fallback(
            upstream=variants[fallback].upstream,
            model=variants[fallback].model,
            snapshot=variants[fallback].snapshot,
        )
        for fallback in route.fallbacks
    ]


def build_table(config: Config, overrides: dict[str, TableRoute]) -> Table:
    """The table of *config*; a route named in *overrides* takes version, variants and rollout from there."""
    routes: dict[str, TableRoute] = {}
    for route in config.routes:
        override = overrides.get(route.model)
        routes[route.model] = TableRoute(
            model=route.model,
            version=override.version if override else 0,
            sticky_by=route.sticky_by,
            variants=override.variants if override else configured_variants(route),
            fallbacks=resolve_fallbacks(route),
            capture=route.capture,
            rollout=override.rollout if override else None,
            timeouts=route.timeouts,
        )
    default = next((upstream.name for upstream in config.upstreams if upstream.default), None)
    # Upstreams decide where a request goes as much as routes do, so they are part of the hash.
    content = msgspec.json.encode((routes, default, config.upstreams), order="sorted", enc_hook=str)
    return Table(routes=routes, default_upstream=default, hash=hashlib.sha256(content).hexdigest()[:16])
