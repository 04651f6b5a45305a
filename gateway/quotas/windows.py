"""The windows of limits: calendar minutes, hours, days and months of UTC, numbered since 1970. Pure.

Windows are fixed, not sliding: what is left is one subtraction, and "per day" means what a bill means by it.
Around a boundary a key may use the whole limit of both windows.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from gateway.config.types import Period

PERIODS: tuple[Period, ...] = ("minute", "hour", "day", "month")

_SECONDS = (60, 3600, 86_400)
_MONTH = 3  # its place in PERIODS


class Numbers(NamedTuple):
    """The number of the window that a moment lies in, of each of PERIODS."""

    minute: int
    hour: int
    day: int
    month: int


def numbers_at(at_s: float) -> Numbers:
    """The windows that *at_s* (seconds since 1970, UTC) lies in."""
    return _numbers_of(int(at_s // 60))


def starts_at(period: int, number: int) -> datetime:
    """When window *number* of PERIODS[*period*] starts."""
    if period == _MONTH:
        return datetime(1970 + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return datetime.fromtimestamp(number * _SECONDS[period], UTC)


def ends_at(period: int, number: int) -> datetime:
    """When it ends, and the next one starts."""
    return starts_at(period, number + 1)


@lru_cache(maxsize=2)  # one request after another asks within the same minute
def _numbers_of(minute: int) -> Numbers:
    date = time.gmtime(minute * 60)
    return Numbers(minute, minute // 60, minute // 1440, (date.tm_year - 1970) * 12 + date.tm_mon - 1)
