"""Where a request would go, and why. Pure: the same answer from a running gateway and from saved files.

What only a running gateway knows, `Explanation.now`, is added by `gateway.control.explain_api`.
"""

from __future__ import annotations

import msgspec

from gateway.config.types import ClientKey, Config, Upstream
from gateway.data_plane.plan import Target, targets_of
from gateway.errors import OperationError
from gateway.explanation import Bounds, Explanation, Range, Step, Terms, UpstreamBounds
from gateway.routing import Buckets, choose_variant, scale, unit_of
from gateway.table import Table, TableRoute, TableVariant
from gateway.traces.cost import rates
from gateway.upstream.pricing import PriceList


class UnknownKeyError(OperationError):
    """No key has the name that was given."""


def explain(
    config: Config,
    table: Table,
    salt: bytes | None,
    *,
    model: str,
    session: str | None,
    subject: str | None,
    client: str,
    caller: str = "",
) -> Explanation:
    """Explain a request for *model* with the key named *client*.

    *salt* is None where no gateway has run yet, and then no session has a place. Where no *client* is named,
    the limits are those of *caller*, who asks. Raises OperationError where nothing serves it, and
    UnknownKeyError.
    """
    named = _key(config, client) if client else None
    found = _explain(config, table, salt, model=model, session=session, subject=subject, client=client)
    own = named or next((key for key in _keys(config) if key.name == caller), None)
    return msgspec.structs.replace(
        found,
        refused=None if named is None else _refused(named, found),
        bounds=msgspec.structs.replace(
            found.bounds,
            key=None if own is None else own.name,
            key_limits=[] if own is None else own.limits,
        ),
    )


def _keys(config: Config) -> list[ClientKey]:
    return config.auth.keys if config.auth is not None else []


def _key(config: Config, name: str) -> ClientKey:
    keys = _keys(config)
    found = next((key for key in keys if key.name == name), None)
    if found is None:
        known = ", ".join(key.name for key in keys) or "none"
        raise UnknownKeyError(f"no key is named {name!r}; keys (auth.keys): {known}")
    return found


def _refused(key: ClientKey, found: Explanation) -> str | None:
    if "infer" not in key.scopes:
        return f"key {key.name!r} lacks scope 'infer' (auth.keys[].scopes)"
    if key.routes is not None and found.route not in key.routes:
        what = f"route {found.route!r}" if found.route else "models that no route serves"
        return f"key {key.name!r} may not use {what} (auth.keys[].routes)"
    if found.route and found.model != found.route and "pin" not in key.scopes:
        return f"key {key.name!r} lacks scope 'pin' for a variant of its own choice (auth.keys[].scopes)"
    return None


def _explain(
    config: Config,
    table: Table,
    salt: bytes | None,
    *,
    model: str,
    session: str | None,
    subject: str | None,
    client: str,
) -> Explanation:
    name, at, pinned = model.rpartition("@")
    route = table.routes.get(name if at else model)
    if route is None:
        return _unrouted(config, table, model)
    if at:
        variant = _pinned(route, pinned)
        return _answer(config, table, route, variant, None, None, model, "the variant is pinned by its name")
    certain = next((variant for variant in route.variants if variant.weight >= 1), None)
    if certain is not None:
        why = f"{certain.name} has all of the traffic"
        return _answer(config, table, route, certain, certain.weight, None, model, why)
    by_subject = route.sticky_by == "subject" and subject is not None
    nobody = config.auth is not None and not client
    if salt is None or route.sticky_by == "request" or nobody or (session is None and not by_subject):
        why = _undecided(route, salt, nobody=nobody)
        return _answer(config, table, route, None, None, None, model, why)
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


def _undecided(route: TableRoute, salt: bytes | None, *, nobody: bool) -> str:
    if route.sticky_by == "request":
        return "sticky_by is request: each request is drawn anew"
    if salt is None:
        return "no gateway has run here yet, so no session has a place"
    if nobody:
        return "no key was named, and a session's place depends on whose it is"
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
    targets = targets_of(route, variant, config)
    steps = [_step(config, target) for target in (targets if variant is None else targets[1:])]
    open_ended = Explanation(
        model=model,
        route=route.model,
        why=why,
        propensity=propensity,
        bucket=position,
        scale=_ranges(route),
        rollout=route.rollout.rollout if route.rollout is not None else None,
        fallbacks=steps,
        table_hash=table.hash,
        bounds=_bounds(
            config, [*(arm.upstream for arm in _arms(route, variant)), *(step.upstream for step in steps)]
        ),
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
        deadlines=targets[0].timeouts,
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
        bounds=_bounds(config, [upstream.name]),
    )


def _arms(route: TableRoute, variant: TableVariant | None) -> list[TableVariant]:
    """What takes a request, or may."""
    return [variant] if variant is not None else [arm for arm in route.variants if arm.weight > 0]


def _step(config: Config, target: Target) -> Step:
    return Step(
        upstream=target.upstream,
        model=target.model,
        larger_context=target.larger_context,
        deadlines=target.timeouts,
        price=_terms(config.upstream(target.upstream), target.model),
    )


def _bounds(config: Config, upstreams: list[str]) -> Bounds:
    limits = [(name, config.upstream(name).limits) for name in dict.fromkeys(upstreams)]
    return Bounds(
        concurrent=config.listen.concurrent,
        upstreams=[
            UpstreamBounds(name=name, concurrent=each.concurrent, queue=each.queue) for name, each in limits
        ],
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
