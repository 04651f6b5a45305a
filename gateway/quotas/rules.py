"""The limits of one key as the ledger reads them, and what a request is told that they refuse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from gateway.config.types import KeyLimit
from gateway.quotas.amounts import DIMENSIONS, NANO, USD, Amounts
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


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A key with limits. `slot` is where the counters are, for as long as the shared memory lives."""

    name: str
    slot: int
    rules: tuple[Rule, ...]
    limits_usd: bool


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


def rules_of(limits: Iterable[KeyLimit]) -> tuple[Rule, ...]:
    """One rule for each number that *limits* name, in the order of PERIODS and DIMENSIONS."""
    rules = []
    for limit in limits:
        period = PERIODS.index(limit.per)
        nano = None if limit.usd is None else round(limit.usd * NANO)
        for dimension, most in enumerate((limit.requests, limit.tokens, nano)):
            if most is not None:
                rules.append(Rule(period, dimension, most))
    return tuple(sorted(rules))


def limits_usd(rules: Iterable[Rule]) -> bool:
    """Whether a request under *rules* needs a price."""
    return any(rule.dimension == USD for rule in rules)


def refused(
    account: Account, numbers: Numbers, at_s: float, wanted: Amounts, left: list[int], unused: list[int]
) -> Refusal:
    """Why *wanted* does not fit: after it, *left* says what each rule would have left, some below 0.

    *unused* says the same as if no other request were in flight.
    """

    def refusal(reason: Reason, rule: Rule, rest: int, retry_after_s: float | None) -> Refusal:
        requested = wanted[rule.dimension]
        return Refusal(
            key=account.name,
            reason=reason,
            rule=rule,
            requested=requested,
            left=max(0, rest + requested),
            retry_after_s=retry_after_s,
        )

    short = [found for found in zip(account.rules, left, unused, strict=True) if found[1] < 0]
    for rule, rest, _ in short:
        if wanted[rule.dimension] > rule.most:
            return refusal("too_large", rule, rest, None)
    used_up = [found for found in short if found[2] < 0]
    # Windows nest: the longest one that is in the way is the last to end.
    rule, rest, _ = max(used_up or short, key=lambda found: found[0].period)
    if not used_up:
        return refusal("reserved", rule, rest, RETRY_AFTER_S)
    return refusal("limit", rule, rest, ends_at(rule.period, numbers[rule.period]).timestamp() - at_s)


def shown(rule: Rule) -> str:
    """*rule* as people say it: "10,000 tokens per minute"."""
    per = PERIODS[rule.period]
    if rule.dimension == USD:
        return f"{rule.most / NANO:,.6g} USD per {per}"
    return f"{rule.most:,} {DIMENSIONS[rule.dimension]} per {per}"
