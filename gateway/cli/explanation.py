"""An explanation as lines for a terminal: a name, or none where a line goes on with the one above it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.config.types import KeyLimit, Timeouts
from gateway.explanation import Explanation, Now, Step, Terms
from gateway.quotas import KeyReport, WindowReport
from gateway.sightings import ServerView, UpstreamView

UNKNOWN = "unknown (no gateway runs)"


def lines(source: str, found: Explanation) -> list[tuple[str, str]]:
    """*found*, which was taken from *source*. What does not apply has no line; what is unknown says so."""
    ranges = ", ".join(f"{part.variant} [{part.start:.4g}, {part.end:.4g})" for part in found.scale)
    said = [
        ("from", source),
        ("route", found.route or "none"),
        ("variant", found.variant or "depends"),
        ("why", found.why),
        ("refused", found.refused),
        ("shares", ranges),
        ("rollout", found.rollout),
        ("snapshot", found.snapshot),
        ("upstream", found.upstream),
        ("model", found.upstream_model),
        ("servers", ", ".join(found.servers)),
        *_block("health", _health(found.now)),
        *_block("limits", _limits(found)),
        *_block("key", _key(found)),
        ("deadlines", _deadlines(found.deadlines)),
        ("price", _price(found.price) if found.upstream else None),
        *_block("fallbacks", (_step(step) for step in found.fallbacks)),
        ("table", found.table_hash),
    ]
    return [(name, value) for name, value in said if value]


def _block(name: str, said: Iterator[str]) -> list[tuple[str, str]]:
    return [("" if index else name, line) for index, line in enumerate(said)]


def _health(now: Now | None) -> Iterator[str]:
    """The servers that a request may go to: those of fallbacks too."""
    if now is None:
        yield UNKNOWN
        return
    for upstream in now.upstreams:
        for server in upstream.servers:
            yield f"{upstream.name} {server.url}: {_standing(upstream, server)}"


def _standing(upstream: UpstreamView, server: ServerView) -> str:
    parts: list[str] = [server.state]
    if server.ejected_for_s is not None:
        by = f" by {server.ejected_by} of {upstream.workers} workers" if upstream.workers > 1 else ""
        parts = [f"ejected{by}, tried again in {server.ejected_for_s:.1f} s"]
    if server.why is not None:
        parts.append(f"for {server.why}")
    if server.rests_for_s is not None:
        parts.append(f"asked for a rest of {server.rests_for_s:.1f} s more")
    return ", ".join([*parts, f"{server.outstanding} outstanding"])


def _limits(found: Explanation) -> Iterator[str]:
    now, bounds = found.now, found.bounds
    if now is None:
        for upstream in bounds.upstreams:
            yield f"{upstream.name}: {upstream.concurrent} at a time, {upstream.queue} waiting; now {UNKNOWN}"
        yield f"all requests: {bounds.concurrent} at a time (listen.concurrent); now {UNKNOWN}"
        return
    for view in now.upstreams:
        waiting = f"{view.waiting} of {view.queue} waiting"
        yield f"{view.name}: {view.in_flight} of {view.concurrent} at a time, {waiting}"
    yield f"all requests: {now.in_flight} of {now.concurrent} at a time (listen.concurrent)"


def _key(found: Explanation) -> Iterator[str]:
    bounds, now = found.bounds, found.now
    if bounds.key is None:
        return
    if not bounds.key_limits:
        yield f"{bounds.key}: no limits"
    elif now is None or now.key is None:
        left = UNKNOWN if now is None else f"unknown: {now.key_unknown}"
        for limit in bounds.key_limits:
            yield f"{bounds.key}: {_configured(limit)}; left {left}"
    else:
        yield from _left(now.key)


def _configured(limit: KeyLimit) -> str:
    parts = (("requests", limit.requests), ("tokens", limit.tokens), ("USD", limit.usd))
    return f"{', '.join(f'{most:g} {what}' for what, most in parts if most is not None)} per {limit.per}"


def _left(key: KeyReport) -> Iterator[str]:
    for window in key.windows:
        yield f"{key.name}: {_window(window)}"


def _window(window: WindowReport) -> str:
    parts = (("requests", window.requests), ("tokens", window.tokens), ("USD", window.usd))
    said = [
        f"{each.left:.10g} of {each.limit:.10g} {what} left"
        + (f" ({each.reserved:.10g} held)" * bool(each.reserved))
        for what, each in parts
        if each is not None
    ]
    return f"{', '.join(said)} until {window.ends_at:%Y-%m-%d %H:%M} UTC"


def _deadlines(deadlines: Timeouts | None) -> str:
    if deadlines is None:
        return ""
    seconds = msgspec.structs.asdict(deadlines)
    return ", ".join(f"{name.removesuffix('_s')} {value:g} s" for name, value in seconds.items())


def _step(step: Step) -> str:
    larger = ", also for what is too long" if step.larger_context else ""
    return f"{step.upstream}/{step.model}{larger}: {_deadlines(step.deadlines)}; price {_price(step.price)}"


def _price(price: Terms | None) -> str:
    if price is None:
        return "unknown"
    if price.per_hour is not None:
        return f"{price.per_hour:g} USD per machine-hour"
    # What costs as much as text does need not be said.
    parts = [
        f"{name} {value:g}"
        for name, value, text in (
            ("input", price.input, None),
            ("cached", price.cached_input, price.input),
            ("cache write", price.cache_write, price.input),
            ("audio in", price.audio_input, price.input),
            ("output", price.output, None),
            ("reasoning", price.reasoning, price.output),
            ("audio out", price.audio_output, price.output),
        )
        if value is not None and value != text
    ]
    return f"{', '.join(parts)} USD per million tokens"
