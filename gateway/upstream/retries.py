"""When to try again and how long to pause first. Pure, but for the randomness that is passed in."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 2.0
MAX_RETRY_AFTER_S = 5.0  # a server that asks for more is not asked again; the client learns what it said
BUDGET_FLOOR = (
    3  # retries a minute that an upstream may get however few requests there are to take a share of
)

# Statuses that say "not now". 409 is what some servers answer while a model is being loaded.
RETRIED_STATUSES = frozenset({408, 409, 429})
# What an upstream thinks of our key or of the model name that we chose is no fault of the request's: another
# upstream may answer it, the same one will not.
MOVED_STATUSES = frozenset({401, 403, 404})


def is_retried(status: int) -> bool:
    """Whether the same upstream may be asked again after *status*."""
    return status >= 500 or status in RETRIED_STATUSES


def is_moved(status: int) -> bool:
    """Whether a fallback may answer in place of *status*."""
    return is_retried(status) or status in MOVED_STATUSES


def pause_s(retry: int, retry_after_s: float | None, random: Random) -> float | None:
    """Seconds to wait before retry number *retry* (from 1); None: too many are asked for, do not."""
    backoff: float = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (retry - 1)) * random.uniform(0.5, 1.0)
    if retry_after_s is None:
        return backoff
    if retry_after_s > MAX_RETRY_AFTER_S:
        return None
    return max(backoff, retry_after_s)


def parse_retry_after(headers: list[tuple[bytes, bytes]], unix_s: float) -> float | None:
    """Seconds from now, which is *unix_s*, that `retry-after-ms` or `retry-after` asks for; None: nothing.

    A date counts from the server's own `date` where it says one, whatever our clock says.
    """
    seconds = None
    for name, value in headers:
        if name == b"retry-after-ms":
            milliseconds = _number(value)
            if milliseconds is not None:
                return milliseconds / 1000
        elif name == b"retry-after":
            seconds = _number(value)
            if seconds is None:
                seconds = _seconds_until(value, headers, unix_s)
    return seconds


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _seconds_until(date: bytes, headers: list[tuple[bytes, bytes]], unix_s: float) -> float | None:
    """Until an HTTP date; 0 where it has passed, None where it is none."""
    at = _unix_s(date)
    said = next((_unix_s(value) for name, value in headers if name == b"date"), None)
    return None if at is None else max(0.0, at - (unix_s if said is None else said))


def _unix_s(date: bytes) -> float | None:
    try:
        at = parsedate_to_datetime(date.decode("latin-1"))
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
