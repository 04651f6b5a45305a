"""Two arms judged on the same prompts: the difference with its interval, and an exact test. Seeded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from judges.calibration.statistics import Z95, Interval

RESAMPLES = 10_000
SEED = 7


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The mean of `a - b` over n pairs, in score points of 1, and how often each was ahead.

    `p_value` is two-sided: the exact binomial test on the pairs that differ (McNemar for yes/no scores, the
    sign test for others).
    """

    difference: Interval
    wins: int
    losses: int
    ties: int
    p_value: float
    method: Literal["newcombe-10", "bootstrap"]


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Compare paired scores in [0, 1].

    Yes/no scores get method 10 of Newcombe, "Improved confidence intervals for the difference between
    binomial proportions based on paired data", Statistics in Medicine 17 (1998); others a percentile
    bootstrap over pairs.
    """
    assert len(a) == len(b), "scores are paired"
    wins = sum(x > y for x, y in zip(a, b, strict=True))
    losses = sum(x < y for x, y in zip(a, b, strict=True))
    binary = all(score in {0.0, 1.0} for score in (*a, *b))
    return Comparison(
        difference=_newcombe(a, b) if binary else bootstrap(a, b),
        wins=wins,
        losses=losses,
        ties=len(a) - wins - losses,
        p_value=sign_test(wins, losses),
        method="newcombe-10" if binary else "bootstrap",
    )


def mean_interval(scores: Sequence[float]) -> Interval:
    """The mean of scores in [0, 1]: Wilson's interval for yes/no scores, a bootstrap for others."""
    n = len(scores)
    if n == 0:
        return Interval(value=0.0, low=0.0, high=1.0, n=0)
    if all(score in {0.0, 1.0} for score in scores):
        low, high = wilson(sum(scores), n)
        return Interval(value=sum(scores) / n, low=low, high=high, n=n)
    return bootstrap(scores, [0.0] * n)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval for a proportion, n above 0."""
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # At p of 0 and 1 one limit is p itself; rounding must not push it past.
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial test that wins and losses are equally likely."""
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / float(2**n)
    return min(1.0, 2 * tail)


def _newcombe(a: Sequence[float], b: Sequence[float]) -> Interval:
    n = len(a)
    if n == 0:
        return Interval(value=0.0, low=-1.0, high=1.0, n=0)
    both = sum(x == y == 1 for x, y in zip(a, b, strict=True))
    only_a, only_b = int(sum(a)) - both, int(sum(b)) - both
    neither = n - both - only_a - only_b
    p_a, p_b = (both + only_a) / n, (both + only_b) / n
    (low_a, high_a), (low_b, high_b) = wilson(both + only_a, n), wilson(both + only_b, n)
    phi = _phi(both, only_a, only_b, neither)
    down = _length(p_a - low_a, high_b - p_b, phi)
    up = _length(high_a - p_a, p_b - low_b, phi)
    value = p_a - p_b
    return Interval(value=value, low=max(-1.0, value - down), high=min(1.0, value + up), n=n)


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Correlation of the two arms, with Newcombe's continuity correction."""
    n = both + only_a + only_b + neither
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if product == 0:
        return 0.0
    numerator = float(both * neither - only_a * only_b)
    if numerator >= 0:
        numerator = max(0.0, numerator - n / 2)
    return numerator / math.sqrt(product)


def _length(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def bootstrap(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The mean of paired differences with a percentile bootstrap over pairs, at least one; any values."""
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n = len(differences)
    drawn = np.random.default_rng(SEED).integers(0, n, size=(RESAMPLES, n))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(value=float(differences.mean()), low=float(low), high=float(high), n=n)
