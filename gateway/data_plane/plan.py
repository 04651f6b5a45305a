"""Where a request goes, in which order, and as what it is recorded. Pure, given the table and the salt."""

from __future__ import annotations

import msgspec

from gateway.config.types import Config, Timeouts
from gateway.data_plane.auth import Client
from gateway.data_plane.errors import ApiError, invalid_request, not_permitted, unknown_model
from gateway.data_plane.headers import header_value, lines_of
from gateway.routing import Buckets, pick, scale, unit_of
from gateway.table import Table, TableRoute, TableVariant
from gateway.traces.types import CaptureLevel


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream, the model name that it knows, and the deadlines there.

    `larger_context`: it may answer what was too long for another model.
    """

    upstream: str
    model: str
    timeouts: Timeouts
    larger_context: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The way of a request. `targets`: the assigned variant, then the fallbacks. `route` may be "".

    `lines` are those of our answer's head that say so.
    """

    route: str
    variant: str
    snapshot: str | None
    rollout: str | None
    propensity: float | None
    capture: CaptureLevel
    targets: list[Target]
    lines: bytes


NO_PLAN = Plan(
    route="",
    variant="",
    snapshot=None,
    rollout=None,
    propensity=None,
    capture="metadata",
    targets=[],
    lines=b"",
)


def targets_of(route: TableRoute, variant: TableVariant | None, config: Config) -> list[Target]:
    """Where a request of *route* goes, in that order: *variant*, then the fallbacks. None is asked twice."""
    asked = [(variant.upstream, variant.model, False)] if variant is not None else []
    for fallback in route.fallbacks:
        model = fallback.model or fallback.snapshot or ""
        if not any(known[:2] == (fallback.upstream, model) for known in asked):
            asked.append((fallback.upstream, model, fallback.larger_context))
    return [
        Target(
            upstream=upstream,
            model=model,
            timeouts=route.timeouts.over(config.upstream(upstream).timeouts),
            larger_context=larger_context,
        )
        for upstream, model, larger_context in asked
    ]


class _RoutePlans:
    """The plans of one route, made once: one for each variant, assigned or pinned."""

    def __init__(self, route: TableRoute, salt: bytes, config: Config) -> None:
        self.route = route
        self._config = config
        self.rollout = route.rollout.rollout if route.rollout is not None else None
        self.buckets = Buckets(salt, route.model, self.rollout)
        self.scale = scale(route)
        self.sole = next((variant for variant in route.variants if variant.weight >= 1), None)
        self.assigned = {variant.name: self._make(variant, pinned=False) for variant in route.variants}
        self.pinned = {variant.name: self._make(variant, pinned=True) for variant in route.variants}

    def _make(self, variant: TableVariant, *, pinned: bool) -> Plan:
        return Plan(
            route=self.route.model,
            variant=variant.name,
            snapshot=variant.snapshot,
            rollout=None if pinned else self.rollout,
            propensity=None if pinned else variant.weight,
            capture=self.route.capture,
            targets=targets_of(self.route, variant, self._config),
            lines=lines_of(
                [
                    (b"x-tracetune-route", header_value(self.route.model)),
                    (b"x-tracetune-variant", header_value(variant.name)),
                ]
            ),
        )


class Planner:
    """Makes plans from one table."""

    def __init__(self, table: Table, salt: bytes, config: Config) -> None:
        self._table = table
        self._config = config
        self._routes = {model: _RoutePlans(route, salt, config) for model, route in table.routes.items()}

    def plan(
        self,
        model: str,
        *,
        pinned: str | None,
        client: Client,
        session: str,
        subject: str | None,
        trace_id: str,
    ) -> Plan:
        """The plan for *model* as the client wrote it: a route, `route@variant`, or any name for the default.

        `pinned` names a variant by header. Raises ApiError: 400, 403 or 404.
        """
        plans = self._routes.get(model)
        if plans is None and "@" in model:
            name, _, variant = model.rpartition("@")
            plans = self._routes.get(name)
            pinned = variant if plans is not None else pinned
        if plans is None:
            return self._unrouted(model, pinned, client)
        route = plans.route
        if not client.may_use(route.model):
            raise not_permitted(f"This key may not use model {route.model!r}.")
        if pinned is not None:
            return _pin(plans, pinned, client)
        if plans.sole is not None:
            return plans.assigned[plans.sole.name]
        unit = unit_of(
            route.sticky_by, client=client.name, session=session, subject=subject, trace_id=trace_id
        )
        return plans.assigned[pick(plans.scale, plans.buckets.of(unit)).name]

    def _unrouted(self, model: str, pinned: str | None, client: Client) -> Plan:
        table = self._table
        if table.default_upstream is None or not client.may_use(""):
            raise unknown_model(model, [name for name in table.routes if client.may_use(name)])
        if pinned is not None:
            raise invalid_request(
                f"Only a variant of a route can be pinned; no route serves {model[:200]!r}."
            )
        timeouts = self._config.upstream(table.default_upstream).timeouts
        target = Target(upstream=table.default_upstream, model=model, timeouts=timeouts)
        return msgspec.structs.replace(NO_PLAN, capture="full", targets=[target])


def _pin(plans: _RoutePlans, name: str, client: Client) -> Plan:
    if not client.may("pin"):
        raise not_permitted("Pinning a variant needs a key with scope `pin`.")
    plan = plans.pinned.get(name)
    if plan is None:
        known = ", ".join(plans.pinned)
        raise ApiError(
            404,
            "invalid_request_error",
            "variant_not_found",
            f"Route {plans.route.model!r} has no variant {name[:200]!r}. Variants: {known}.",
            param="model",
        )
    return plan
