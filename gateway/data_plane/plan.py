"""Where a request goes, in which order, and as what it is recorded. Pure: the salt is an argument."""

from __future__ import annotations

import msgspec

from gateway.data_plane.auth import Client
from gateway.data_plane.errors import ApiError, invalid_request, not_permitted, unknown_model
from gateway.routing import Assignment, choose_variant, unit_of
from gateway.table import Table, TableRoute
from gateway.traces.types import CaptureLevel


class Target(msgspec.Struct, frozen=True):
    """One upstream and the model name that it knows."""

    upstream: str
    model: str


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a request is from and about; what stickiness goes by."""

    trace_id: str
    session: str
    subject: str | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The way of one request. `targets`: the assigned variant, then the fallbacks. `route` may be ""."""

    route: str
    variant: str
    snapshot: str | None
    rollout: str | None
    propensity: float | None
    capture: CaptureLevel
    targets: list[Target]


def make_plan(
    table: Table, model: str, *, pinned: str | None, client: Client, identity: Identity, salt: bytes
) -> Plan:
    """The plan for *model* as the client wrote it: a route, `route@variant`, or any name for the default.

    `pinned` names a variant by header. Raises ApiError: 400, 403 or 404.
    """
    route = table.routes.get(model)
    if route is None and "@" in model:
        name, _, variant = model.rpartition("@")
        route = table.routes.get(name)
        pinned = variant if route is not None else pinned
    if route is None:
        return _unrouted(table, model, pinned, client)
    if not client.may_use(route.model):
        raise not_permitted(f"This key may not use model {route.model!r}.")
    if pinned is not None:
        assignment = _pin(route, pinned, client)
    else:
        unit = unit_of(
            route.sticky_by,
            client=client.name,
            session=identity.session,
            subject=identity.subject,
            trace_id=identity.trace_id,
        )
        assignment = choose_variant(route, unit, salt)
    variant_taken = assignment.variant
    targets = [Target(variant_taken.upstream, variant_taken.model)]
    for fallback in route.fallbacks:
        target = Target(fallback.upstream, fallback.model or fallback.snapshot or "")
        if target not in targets:
            targets.append(target)
    return Plan(
        route=route.model,
        variant=variant_taken.name,
        snapshot=variant_taken.snapshot,
        rollout=assignment.rollout,
        propensity=assignment.propensity,
        capture=route.capture,
        targets=targets,
    )


def _unrouted(table: Table, model: str, pinned: str | None, client: Client) -> Plan:
    if table.default_upstream is None or not client.may_use(""):
        raise unknown_model(model, [name for name in table.routes if client.may_use(name)])
    if pinned is not None:
        raise invalid_request(f"Only a variant of a route can be pinned; no route serves {model[:200]!r}.")
    return Plan(
        route="",
        variant="",
        snapshot=None,
        rollout=None,
        propensity=None,
        capture="full",
        targets=[Target(table.default_upstream, model)],
    )


def _pin(route: TableRoute, name: str, client: Client) -> Assignment:
    if not client.may("pin"):
        raise not_permitted("Pinning a variant needs a key with scope `pin`.")
    variant = route.variant(name)
    if variant is None:
        known = ", ".join(variant.name for variant in route.variants)
        raise ApiError(
            404,
            "invalid_request_error",
            "variant_not_found",
            f"Route {route.model!r} has no variant {name[:200]!r}. Variants: {known}.",
            param="model",
        )
    return Assignment(variant=variant, propensity=None, rollout=None)
