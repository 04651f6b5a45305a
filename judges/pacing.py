"""How fast a judge may judge: a token bucket, pure; the clock is an argument."""

from __future__ import annotations

import msgspec

BURST_S = 1.0  # so much of the rate may come at once, and always one trace


class Bucket(msgspec.Struct, frozen=True):
    """*tokens* at the moment *at*, in seconds of any clock that never goes back."""

    tokens: float
    at: float


def burst(per_minute: float) -> float:
    """How many traces may be taken up at once."""
    return max(1.0, per_minute / 60 * BURST_S)


def full(per_minute: float, now: float) -> Bucket:
    """As it is where nothing was judged for a while."""
    return Bucket(burst(per_minute), now)


def take(bucket: Bucket, per_minute: float, now: float) -> tuple[Bucket, float]:
    """Take one trace out of *bucket*: what is left, and 0; or the same as before, and how long to wait.

    Between any two moments no more are taken than `burst` and what *per_minute* allows for the time between.
    """
    now = max(now, bucket.at)
    per_second = per_minute / 60
    tokens = min(burst(per_minute), bucket.tokens + (now - bucket.at) * per_second)
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0.0
    return Bucket(tokens, now), (1 - tokens) / per_second
