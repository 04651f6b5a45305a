"""Tests that stay valid however often anyone looks: e-processes for bounded outcomes under logged shares.

Every unit t was given to the candidate with a probability p_t that was known before. With x_t in [0, 1] and a
frozen center c,

    Y_t = (A_t / p_t) (x_t - c)  -  r ((1 - A_t) / (1 - p_t)) (x_t - c)

has expectation m1 - r m0 - (1 - r) c whatever p_t was, m1 and m0 being the candidate's and stable's mean. To
test  H0: m1 - r m0 <= d  (or >=, by the sign of `direction`) we bet against it: with t = d - (1 - r) c and b
the most that Y can fall below zero, every factor 1 + f (Y - t) / (b + t) with 0 < f < 1 is positive and,
under H0, at most one in expectation. The mean over a fixed grid of f of the products is the e-process E, and
P(E ever reaches 1/alpha | H0) <= alpha (Ville), at whatever units anyone looks, through any change of shares.

Superiority, non-inferiority and harm are the same function with another direction and null; a ratio r other
than one tests means against each other's multiples (cost, latency) without dividing. The log of each product
is a sum over units: order-free, mergeable, and what a materialized view can hold.

Validity needs grid, center, null and outcome fixed before the first unit, and every matured unit included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID_SIZE = 24
GRID: Floats = np.geomspace(0.002, 0.9, GRID_SIZE)  # fractions of the largest bet that cannot go bankrupt
LIMIT_STEPS = 30  # halvings of [-1, 1] when an interval is inverted: far below any reported digit
MAX_LOG_E = 690.0  # exp() of more is not a float


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A null hypothesis about two means in [0, 1] that the e-process bets against.

    direction 1:  m_candidate - ratio * m_stable <= null, rejected when the candidate has more.
    direction -1: ratio * m_stable - m_candidate <= null, rejected when the candidate has less.
    `center` only affects power; stable's historical mean is best.
    """

    direction: Literal[1, -1]
    center: float
    null: float = 0.0
    ratio: float = 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Units of two arms; equal units are one row with a count. All arrays have one length."""

    candidate: NDArray[np.bool_]  # which arm the unit was assigned to
    share: Floats  # probability, known before, of the candidate among these two arms; inside (0, 1)
    x: Floats  # outcome in [0, 1]
    count: Floats  # how many such units

    @classmethod
    def of(
        cls,
        candidate: list[bool] | NDArray[np.bool_],
        share: list[float] | Floats,
        x: list[float] | Floats,
        count: list[int] | Floats | None = None,
    ) -> Sample:
        """A sample from sequences; without *count* every row is one unit."""
        arm = np.asarray(candidate, dtype=np.bool_)
        counts = np.ones(arm.shape[0]) if count is None else np.asarray(count, dtype=np.float64)
        return cls(arm, np.asarray(share, dtype=np.float64), np.asarray(x, dtype=np.float64), counts)

    def __add__(self, other: Sample) -> Sample:
        """The units of both."""
        return Sample(
            np.concatenate((self.candidate, other.candidate)),
            np.concatenate((self.share, other.share)),
            np.concatenate((self.x, other.x)),
            np.concatenate((self.count, other.count)),
        )

    def units(self, *, candidate: bool) -> int:
        """How many units one arm has."""
        return int(self.count[self.candidate == candidate].sum())

    def mean(self, *, candidate: bool) -> float | None:
        """Plain mean of one arm, None without units."""
        chosen = self.candidate == candidate
        total = self.count[chosen].sum()
        return float((self.count[chosen] * self.x[chosen]).sum() / total) if total else None


def difference_returns(sample: Sample, question: Question) -> Floats:
    """What a full bet on each row returns, at least -1; its mean under the null is at most zero."""
    c, r = question.center, question.ratio
    p, q = sample.share, 1 - sample.share
    y = question.direction * np.where(sample.candidate, 1 / p, -r / q) * (sample.x - c)
    theta = question.null - question.direction * (1 - r) * c
    worst = (
        np.maximum(c / p, r * (1 - c) / q) if question.direction > 0 else np.maximum((1 - c) / p, r * c / q)
    )
    returns: Floats = (y - theta) / (worst + theta)
    return returns


def level_returns(sample: Sample, level: float, direction: Literal[1, -1]) -> Floats:
    """The same for the candidate's mean alone; null: at most *level* (direction 1) or at least it (-1).

    Rows of the stable arm return zero: they say nothing about a level.
    """
    gain = (sample.x - level) / level if direction > 0 else (level - sample.x) / (1 - level)
    returns: Floats = np.where(sample.candidate, gain, 0.0)
    return returns


def log_products(returns: Floats, count: Floats) -> Floats:
    """Log of each grid point's product: the only sums that have to be kept to go on or to merge."""
    sums: Floats = np.log1p(np.outer(GRID, returns)) @ count
    return sums


def log_mixture(log_values: Floats, weights: Floats | None = None) -> float:
    """Log of the weighted mean of e-values given by their logs; equal weights unless given."""
    if weights is None:
        weights = np.full(log_values.shape[0], 1 / log_values.shape[0])
    top = float(log_values.max())
    return top + math.log(float(weights @ np.exp(log_values - top)))


def log_e_difference(sample: Sample, question: Question) -> float:
    """Log of the e-value against *question*; 0 without units."""
    return log_mixture(log_products(difference_returns(sample, question), sample.count))


def log_e_level(sample: Sample, level: float, direction: Literal[1, -1]) -> float:
    """Log of the e-value against "the candidate's mean is at most (at least) *level*"; 0 without units."""
    return log_mixture(log_products(level_returns(sample, level, direction), sample.count))


def e_value(log_e: float) -> float:
    """The e-value itself, kept finite."""
    return math.exp(min(log_e, MAX_LOG_E))


def difference_interval(sample: Sample, center: float, alpha: float) -> tuple[float, float]:
    """Confidence interval of m_candidate - m_stable that holds at all times at once with 1 - *alpha*.

    It is the set of differences that neither one-sided test rejects at alpha / 2; (-1, 1) without units.
    """
    lower = _last_rejected(sample, 1, center, alpha / 2)
    upper = -_last_rejected(sample, -1, center, alpha / 2)
    return lower, max(lower, upper)


def _last_rejected(sample: Sample, direction: Literal[1, -1], center: float, alpha: float) -> float:
    """The largest null that is rejected: each factor falls as the null rises, so halving finds it."""
    threshold = math.log(1 / alpha)
    low, high = -1.0, 1.0
    for _ in range(LIMIT_STEPS):
        middle = (low + high) / 2
        question = Question(direction=direction, center=center, null=middle)
        if log_e_difference(sample, question) >= threshold:
            low = middle
        else:
            high = middle
    return low
