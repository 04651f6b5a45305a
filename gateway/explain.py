"""Where a request would go, and why. Pure: the same answer from a running gateway and from saved files."""

from __future__ import annotations

import msgspec

from gateway.config.types import Config, Fallback, Timeouts, Upstream
from gateway.errors import OperationError
from gateway.routing import bucket, choose_variant, scale, unit_of
from gateway.table import Table, TableRoute, TableVariant


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """The part of [0, 1) that a variant takes."""

    variant: str
    start: float
    end: float


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens, or per hour of the machine; None is unknown."""

    input: float | None = None
    cached_input: float | None = None
    output: float | None = None
    per_hour: float | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where one request would go. `variant` is None where it depends on something that was not given."""

    model: str
    route: str
    why: str
    table_hash: str
    variant: str | None = None
    propensity: float | None = None
    bucket: float | None = None
    scale: list[Range] = []
    rollout: str | None = None
    snapshot: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    servers: list[str] = []
    deadlines: Timeouts | None = None
    fallbacks: list[Fallback] = []
    price: Terms | None = None


def explain(
    config: Config,
    table: Table,
    salt: bytes,
    *,
    model: str,
    session: str | None,
    subject: str | None,
    client: str,
) -> Explanation:
    """Explain a request for *model*. Raises OperationError where nothing serves it."""
    name, _, pinned = model.partition("@")
    route = table.routes.get(model) or table.routes.get(name)
    if route is None:
        return _unrouted(config, table, model)
    if pinned and model not in table.routes:
        variant = route.variant(pinned)
        if variant is None:
            known = ", ".join(variant.name for variant in route.variants)
            raise OperationError(f"route {name!r} has no variant {pinned!r}; variants: {known}")
        return _answer(config, table, route, variant, None, None, model, "the variant is pinned by its name")
    if session is None and (route.sticky_by != "subject" or subject is None) and not _certain(route):
        return _answer(config, table, route, None, None, None, model, _undecided(route))
    unit = unit_of(route.sticky_by, client=client, session=session or "", subject=subject, trace_id="")
    if route.sticky_by == "request" and not _certain(route):
        return _answer(config, table, route, None, None, None, model, _undecided(route))
    chosen = choose_variant(route, unit, salt)
    position = bucket(salt, route.model, chosen.rollout, unit)
    kept_by = "subject" if route.sticky_by == "subject" and subject is not None else "session"
    why = (
        f"{chosen.variant.name} has all of the traffic"
        if _certain(route)
        else f"the {kept_by} falls on {position:.4f}, in the part of {chosen.variant.name}"
    )
    return _answer(config, table, route, chosen.variant, chosen.propensity, position, model, why)


def _certain(route: TableRoute) -> bool:
    return any(variant.weight >= 1 for variant in route.variants)


def _undecided(route: TableRoute) -> str:
    if route.sticky_by == "request":
        return "sticky_by is request: each request is drawn anew"
    return f"no {route.sticky_by} was given: each request without one is drawn anew"


def _answer(
    config: Config,
    table: Table,
    route: TableRoute,
    variant: TableVariant | None,
    propensity: float | None,
    position: float | None,
    model: str,
    why: str,
) -> Explanation:
    open_ended = Explanation(
        model=model,
        route=route.model,
        why=why,
        propensity=propensity,
        bucket=position,
        scale=_ranges(route),
        rollout=route.rollout.rollout if route.rollout is not None else None,
        fallbacks=route.fallbacks,
        table_hash=table.hash,
    )
    if variant is None:
        return open_ended
    upstream = config.upstream(variant.upstream)
    return msgspec.structs.replace(
        open_ended,
        variant=variant.name,
        snapshot=variant.snapshot,
        upstream=upstream.name,
        upstream_model=variant.model,
        servers=upstream.servers,
        deadlines=upstream.timeouts,
        price=_terms(upstream, variant.model),
    )


def _unrouted(config: Config, table: Table, model: str) -> Explanation:
    if table.default_upstream is None:
        routes = ", ".join(sorted(table.routes))
        raise OperationError(f"no route serves {model!r} and no upstream is the default; routes: {routes}")
    upstream = config.upstream(table.default_upstream)
    return Explanation(
        model=model,
        route="",
        why=f"no route serves {model}; upstream {upstream.name} takes such names",
        upstream=upstream.name,
        upstream_model=model,
        servers=upstream.servers,
        deadlines=upstream.timeouts,
        price=_terms(upstream, model),
        table_hash=table.hash,
    )


def _ranges(route: TableRoute) -> list[Range]:
    ranges, start = list[Range](), 0.0
    for variant in scale(route):
        if variant.weight > 0:
            ranges.append(Range(variant=variant.name, start=start, end=min(1.0, start + variant.weight)))
            start += variant.weight
    return ranges


def _terms(upstream: Upstream, model: str) -> Terms | None:
    price = next((price for price in upstream.prices if price.model == model), None)
    if price is not None:
        cached = price.input if price.cached_input is None else price.cached_input
        return Terms(
            input=price.input, cached_input=cached, output=price.output, per_hour=upstream.price_per_hour
        )
    return Terms(per_hour=upstream.price_per_hour) if upstream.price_per_hour is not None else None
