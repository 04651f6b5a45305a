"""Where a request would go, and why. Pure: the same answer from a running gateway and from saved files."""

from __future__ import annotations

import msgspec

from gateway.config.types import Config, Fallback, Timeouts, Upstream
from gateway.errors import OperationError
from gateway.routing import Buckets, choose_variant, scale, unit_of
from gateway.table import Table, TableRoute, TableVariant
from gateway.traces.cost import rates
from gateway.upstream.pricing import PriceList


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """The part of [0, 1) that a variant takes."""

    variant: str
    start: float
    end: float


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens, or per hour of the machine alone."""

    input: float | None = None
    cached_input: float | None = None
    cache_write: float | None = None
    audio_input: float | None = None
    output: float | None = None
    reasoning: float | None = None
    audio_output: float | None = None
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
    salt: bytes | None,
    *,
    model: str,
    session: str | None,
    subject: str | None,
    client: str,
) -> Explanation:
    """Explain a request for *model*. Raises OperationError where nothing serves it.

    *salt* is None where no gateway has run yet, and then no session has a place.
    """
    name, _, pinned = model.partition("@")
    route = table.routes.get(model) or table.routes.get(name)
    if route is None:
        return _unrouted(config, table, model)
    if pinned and model not in table.routes:
        variant = _pinned(route, pinned)
        return _answer(config, table, route, variant, None, None, model, "the variant is pinned by its name")
    certain = next((variant for variant in route.variants if variant.weight >= 1), None)
    if certain is not None:
        why = f"{certain.name} has all of the traffic"
        return _answer(config, table, route, certain, certain.weight, None, model, why)
    by_subject = route.sticky_by == "subject" and subject is not None
    if salt is None or route.sticky_by == "request" or (session is None and not by_subject):
        return _answer(config, table, route, None, None, None, model, _undecided(route, salt))
    unit = unit_of(route.sticky_by, client=client, session=session or "", subject=subject, trace_id="")
    chosen = choose_variant(route, unit, salt)
    position = Buckets(salt, route.model, chosen.rollout).of(unit)
    kept_by = "subject" if by_subject else "session"
    why = f"the {kept_by} falls on {position:.4f}, in the part of {chosen.variant.name}"
    return _answer(config, table, route, chosen.variant, chosen.propensity, position, model, why)


def _pinned(route: TableRoute, name: str) -> TableVariant:
    variant = route.variant(name)
    if variant is None:
        known = ", ".join(variant.name for variant in route.variants)
        raise OperationError(f"route {route.model!r} has no variant {name!r}; variants: {known}")
    return variant


def _undecided(route: TableRoute, salt: bytes | None) -> str:
    if route.sticky_by == "request":
        return "sticky_by is request: each request is drawn anew"
    if salt is None:
        return "no gateway has run here yet, so no session has a place"
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
        deadlines=route.timeouts.over(upstream.timeouts),
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
    if upstream.price_per_hour is not None:
        return Terms(per_hour=upstream.price_per_hour)
    price = PriceList(upstream).of(model)
    if price is None:
        return None
    rate = rates(price)
    return Terms(
        input=rate.text_in,
        cached_input=rate.cached,
        cache_write=rate.cache_write,
        audio_input=rate.audio_in,
        output=rate.text_out,
        reasoning=rate.reasoning,
        audio_output=rate.audio_out,
    )
