"""What a client is told about its limits, in OpenAI's words: errors, and headers of answers. Pure."""

from __future__ import annotations

import math

import msgspec

from gateway.quotas.amounts import DIMENSIONS, USD, in_units
from gateway.quotas.ledger import Reservation
from gateway.quotas.rules import Refusal, Rule, shown
from gateway.quotas.windows import PERIODS, ends_at

# OpenAI's clients retry a 429 by themselves and wait for no longer than this; beyond it they are told not to.
WORTH_WAITING_S = 60.0

Headers = list[tuple[bytes, bytes]]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a refused request: `kind` is OpenAI's `type`. The message names keys by name only."""

    status: int
    kind: str
    code: str
    message: str
    headers: Headers


def refused_answer(refusal: Refusal) -> Refused:
    """429 for a limit, 403 where a price is missing, 503 while nothing can be counted."""
    if refusal.reason == "unavailable":
        message = (
            "The limits of this key cannot be counted at the moment; a gateway process does not respond."
        )
        return _answer(503, "server_error", "limits_unavailable", message, refusal)
    if refusal.reason == "unpriced":
        message = (
            f"Key {refusal.key!r} has a limit in USD, and the price of this model is not known; "
            "upstreams[].prices of the gateway sets it."
        )
        return _answer(403, "invalid_request_error", "unknown_price", message, refusal)
    rule = refusal.rule
    assert rule is not None, "a limit refused it"
    if rule.dimension == USD:
        return _answer(429, "insufficient_quota", "insufficient_quota", _message(refusal, rule), refusal)
    kind = DIMENSIONS[rule.dimension]
    return _answer(429, kind, "rate_limit_exceeded", _message(refusal, rule), refusal)


def limit_headers(reservation: Reservation, at_s: float) -> Headers:
    """`x-ratelimit-*` of an answer, for requests and for tokens: the limit of which least is left.

    `reset` is when its window ends, as OpenAI writes it ("6m12s"), counted from *at_s*.
    """
    headers: Headers = []
    for dimension in range(USD):
        found = [
            (left, rule)
            for rule, left in zip(reservation.account.rules, reservation.left, strict=True)
            if rule.dimension == dimension
        ]
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
    what = f"Limit of key {refusal.key!r}: {shown(rule)}"
    asked = f"this request may use {_number(rule, refusal.requested)}, {_number(rule, refusal.left)} left"
    if refusal.reason == "too_large":
        return (
            f"{what}; this request alone may use {_number(rule, refusal.requested)}. "
            "Send less, or ask for fewer tokens (max_tokens, n)."
        )
    if refusal.reason == "reserved":
        return f"{what}; {asked} beside the requests in flight. Try again when they are done."
    return f"{what}; {asked} until the {PERIODS[rule.period]} ends (UTC). auth.keys[].limits sets it."


def _number(rule: Rule, amount: int) -> str:
    return f"{in_units(rule.dimension, amount):,.9g}" if rule.dimension == USD else f"{amount:,}"


def _answer(status: int, kind: str, code: str, message: str, refusal: Refusal) -> Refused:
    headers: Headers = []
    wait_s = refusal.retry_after_s
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
    if wait_s is None or wait_s > WORTH_WAITING_S:
        headers.append((b"x-should-retry", b"false"))
    return Refused(status=status, kind=kind, code=code, message=message, headers=headers)


def _duration(seconds: float) -> bytes:
    left = max(0, math.ceil(seconds))
    parts: list[str] = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return "".join([*parts, f"{left}s"]).encode()
