"""What a client is told about the limits of its key, in OpenAI's words: errors, and headers. Pure."""

from __future__ import annotations

import math

from gateway.data_plane.errors import ApiError, Headers
from gateway.quotas import Refusal, Reservation, Rule
from gateway.quotas.amounts import DIMENSIONS, USD, in_units
from gateway.quotas.windows import PERIODS, ends_at

# OpenAI's clients retry a 429 by themselves and wait for no longer than this; beyond it they are told not to.
WORTH_WAITING_S = 60.0


def refused(refusal: Refusal) -> ApiError:
    """429 for a limit, 403 where a price is missing, 503 while nothing can be counted."""
    wait_s = refusal.retry_after_s
    headers: Headers = []
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
    if wait_s is None or wait_s > WORTH_WAITING_S:
        headers.append((b"x-should-retry", b"false"))
    if refusal.reason == "unavailable":
        message = (
            "The limits of this key cannot be counted at the moment; a gateway process does not respond."
        )
        return ApiError(503, "server_error", "limits_unavailable", message, headers=headers)
    if refusal.reason == "unpriced":
        message = (
            f"Key {refusal.key!r} has a limit in USD, and the price of this model is not known; "
            "upstreams[].prices of the gateway sets it."
        )
        return ApiError(403, "invalid_request_error", "unknown_price", message, headers=headers)
    rule = refusal.rule
    assert rule is not None, "a limit refused it"
    message = _message(refusal, rule)
    if rule.dimension == USD:
        return ApiError(429, "insufficient_quota", "insufficient_quota", message, headers=headers)
    return ApiError(429, DIMENSIONS[rule.dimension], "rate_limit_exceeded", message, headers=headers)


def limit_headers(reservation: Reservation, at_s: float) -> Headers:
    """`x-ratelimit-*` of an answer, for requests and for tokens: the limit of which least is left.

    `reset` is when its window ends, as OpenAI writes it ("6m12s"), counted from *at_s*.
    """
    headers: Headers = []
    rules = list(zip(reservation.left, reservation.account.rules, strict=True))
    for dimension in range(USD):
        found = [entry for entry in rules if entry[1].dimension == dimension]
        if not found:
            continue
        left, rule = min(found)
        ends = ends_at(rule.period, reservation.numbers[rule.period]).timestamp()
        name = DIMENSIONS[dimension].encode()
        headers += [
            (b"x-ratelimit-limit-" + name, b"%d" % rule.most),
            (b"x-ratelimit-remaining-" + name, b"%d" % left),
            (b"x-ratelimit-reset-" + name, _duration(ends - at_s)),
        ]
    return headers


def _message(refusal: Refusal, rule: Rule) -> str:
    what = f"Limit of key {refusal.key!r}: {rule}"
    wanted, left = (
        f"{in_units(rule.dimension, amount):,.9g}" if rule.dimension == USD else f"{amount:,}"
        for amount in (refusal.requested, refusal.left)
    )
    if refusal.reason == "too_large":
        return (
            f"{what}; this request alone may use {wanted}. "
            "Send less, or ask for fewer tokens (max_tokens, n)."
        )
    asked = f"{what}; this request may use {wanted}, {left} left"
    if refusal.reason == "reserved":
        return f"{asked} beside the requests in flight. Try again when they are done."
    return f"{asked} until the {PERIODS[rule.period]} ends (UTC). auth.keys[].limits sets it."


def _duration(seconds: float) -> bytes:
    left = max(0, math.ceil(seconds))
    parts: list[str] = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return "".join([*parts, f"{left}s"]).encode()
