"""What keys have used, hold and have left: read from the counters that enforce the limits."""

from __future__ import annotations

from datetime import datetime

import msgspec

from gateway.config.types import Auth, ClientKey, Period
from gateway.quotas import layout
from gateway.quotas.amounts import in_units
from gateway.quotas.counters import Counters
from gateway.quotas.rules import rules_of
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
    requests: Standing | None
    tokens: Standing | None
    usd: Standing | None


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
    keys = [key for key in auth.keys if key.limits] if auth is not None else []
    return [_report(key, _cells(counters, key.name), numbers) for key in keys]


def _cells(counters: Counters | None, name: str) -> list[int]:
    if counters is not None:
        with counters.locked():
            slot = counters.slots().get(name)
            if slot is not None:
                return counters.cells(slot)
    return [0] * layout.CELLS_WORDS


def _report(key: ClientKey, cells: list[int], numbers: Numbers) -> KeyReport:
    standings: dict[int, list[Standing | None]] = {}
    for period, dimension, most in rules_of(key.limits):
        at = layout.cell(period, numbers[period])
        kept = cells[at] == numbers[period]
        used = cells[at + layout.USED + dimension] if kept else 0
        reserved = cells[at + layout.RESERVED + dimension] if kept else 0
        standings.setdefault(period, [None, None, None])[dimension] = Standing(
            limit=in_units(dimension, most),
            used=in_units(dimension, used),
            reserved=in_units(dimension, reserved),
            left=in_units(dimension, max(0, most - used - reserved)),
        )
    return KeyReport(
        name=key.name,
        windows=[
            WindowReport(
                per=PERIODS[period],
                starts_at=starts_at(period, numbers[period]),
                ends_at=ends_at(period, numbers[period]),
                requests=requests,
                tokens=tokens,
                usd=usd,
            )
            for period, (requests, tokens, usd) in standings.items()
        ],
    )
