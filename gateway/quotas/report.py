"""What keys have used, hold and have left: read from the counters that enforce the limits."""

from __future__ import annotations

from datetime import datetime

import msgspec

from gateway.config.types import Auth, ClientKey, Period
from gateway.quotas.amounts import DIMENSIONS, Dimension, in_units
from gateway.quotas.counters import Counters
from gateway.quotas.rules import limited_keys, rules_of
from gateway.quotas.tally import EMPTY, Tally, sums_in
from gateway.quotas.windows import PERIODS, Numbers, ends_at, numbers_at, starts_at


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One limit in one window, in requests, tokens or USD.

    `reserved` is what requests in flight hold. `left` is never below 0, though `used` may exceed `limit` by
    what requests used beyond their estimates, or since the limit was lowered.
    """

    limit: float
    used: float
    reserved: float
    left: float


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """The window of one period (UTC). None: no limit on this in this period."""

    per: Period
    starts_at: datetime
    ends_at: datetime
    requests: Standing | None = None
    tokens: Standing | None = None
    usd: Standing | None = None


class KeyReport(msgspec.Struct, frozen=True, kw_only=True):
    """A key by its configured name, and the windows of its limits, shortest first."""

    name: str
    windows: list[WindowReport]


def report_limits(counters: Counters | None, auth: Auth | None, at_s: float) -> list[KeyReport]:
    """Every key of *auth* that has limits, in its order, in the windows of *at_s*.

    *counters* are those of the ledger. The present windows and the ones before are known; earlier ones read
    as nothing used. Raises OperationError while the lock cannot be had.
    """
    numbers = numbers_at(at_s)
    return [_report(key, *_tallies(counters, key.name), numbers) for key in limited_keys(auth)]


def _tallies(counters: Counters | None, name: str) -> tuple[Tally, Tally]:
    if counters is not None:
        with counters.locked():
            slot = counters.slots().get(name)
            if slot is not None:
                return counters.read(slot)
    return EMPTY, EMPTY


def _report(key: ClientKey, used: Tally, reserved: Tally, numbers: Numbers) -> KeyReport:
    standings: dict[int, dict[Dimension, Standing]] = {}
    for period, dimension, most in rules_of(key):
        now_used, now_reserved = (
            sums_in(tally, period, numbers[period])[dimension] for tally in (used, reserved)
        )
        standings.setdefault(period, {})[DIMENSIONS[dimension]] = Standing(
            limit=in_units(dimension, most),
            used=in_units(dimension, now_used),
            reserved=in_units(dimension, now_reserved),
            left=in_units(dimension, max(0, most - now_used - now_reserved)),
        )
    windows = [
        WindowReport(
            per=PERIODS[period],
            starts_at=starts_at(period, numbers[period]),
            ends_at=ends_at(period, numbers[period]),
            **by_dimension,
        )
        for period, by_dimension in standings.items()
    ]
    return KeyReport(name=key.name, windows=windows)
