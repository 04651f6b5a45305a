"""The limits of one key as the ledger reads them, and which of them is in the way of a request. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from gateway.config.types import Auth, ClientKey
from gateway.quotas.amounts import DIMENSIONS, NANO, USD, Amounts
from gateway.quotas.counters import Place
from gateway.quotas.tally import EMPTY, Tally, place_of
from gateway.quotas.windows import PERIODS, Numbers, ends_at

# limit: used up until the window ends. reserved: what is left is held by requests in flight.
# too_large: the request alone exceeds the limit, in any window. unavailable: the counters cannot be used now.
# unpriced: a limit in USD, and nobody knows what the request may cost.
Reason = Literal["limit", "reserved", "too_large", "unpriced", "unavailable"]

RETRY_AFTER_S = 1.0  # what a client is told to wait for what may be over at any moment


class Rule(NamedTuple):
    """One limit: *most* of DIMENSIONS[*dimension*] in one window of PERIODS[*period*]."""

    period: int
    dimension: int
    most: int

    def __str__(self) -> str:
        """As people say it: "10,000 tokens per minute"."""
        per = PERIODS[self.period]
        if self.dimension == USD:
            return f"{self.most / NANO:,.6g} USD per {per}"
        return f"{self.most:,} {DIMENSIONS[self.dimension]} per {per}"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A key with limits. `place`: where this process counts it, for as long as the shared memory lives."""

    name: str
    rules: tuple[Rule, ...]
    place: Place


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing was reserved. `rule`: the limit; of several, the one that is in the way for longest.

    `requested` and `left` are in the units of the rule's dimension, `left` 0 where nothing is.
    `retry_after_s`: until the window ends, RETRY_AFTER_S where that is not what it waits for. None: the same
    request will never fit.
    """

    key: str
    reason: Reason
    rule: Rule | None = None
    requested: int = 0
    left: int = 0
    retry_after_s: float | None = None


def limited_keys(auth: Auth | None) -> list[ClientKey]:
    """The keys of *auth* that have limits, in its order."""
    return [key for key in auth.keys if key.limits] if auth is not None else []


def rules_of(key: ClientKey) -> tuple[Rule, ...]:
    """One rule for each number in the limits of *key*, in the order of PERIODS and DIMENSIONS."""
    rules = []
    for limit in key.limits:
        period = PERIODS.index(limit.per)
        nano = None if limit.usd is None else round(limit.usd * NANO)
        for dimension, most in enumerate((limit.requests, limit.tokens, nano)):
            if most is not None:
                rules.append(Rule(period, dimension, most))
    return tuple(sorted(rules))


def left_of(
    rules: tuple[Rule, ...], numbers: Numbers, wanted: Amounts, used: Tally, reserved: Tally
) -> list[int]:
    """What each of *rules* would have left after *wanted*; below 0: it has not enough."""
    left = []
    for period, dimension, most in rules:
        at = place_of(period, numbers[period]) + 1 + dimension
        left.append(most - used[at] - reserved[at] - wanted[dimension])
    return left


def refusal_of(
    account: Account, numbers: Numbers, at_s: float, wanted: Amounts, used: Tally, left: list[int]
) -> Refusal:
    """Why *wanted* does not fit: after it, *left* says what each rule would have left, some below 0."""
    rules = account.rules
    short = {rule: rest for rule, rest in zip(rules, left, strict=True) if rest < 0}
    too_large = [rule for rule in short if wanted[rule.dimension] > rule.most]
    unused = left_of(rules, numbers, wanted, used, EMPTY)  # as if nothing else were in flight
    used_up = [rule for rule, rest in zip(rules, unused, strict=True) if rest < 0]
    # Windows nest: the longest one that is in the way is the last to end.
    rule = max(too_large or used_up or short, key=lambda rule: rule.period)
    reason: Reason = "too_large" if too_large else "limit" if used_up else "reserved"
    wait_s = {
        "too_large": None,
        "limit": ends_at(rule.period, numbers[rule.period]).timestamp() - at_s,
        "reserved": RETRY_AFTER_S,
    }
    requested = wanted[rule.dimension]
    return Refusal(
        key=account.name,
        reason=reason,
        rule=rule,
        requested=requested,
        left=max(0, short[rule] + requested),
        retry_after_s=wait_s[reason],
    )
