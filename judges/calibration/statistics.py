"""How often a judge is right, from its verdicts on labelled traces. Pure; limits are two-sided at 95 %."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Z95 = 1.959963984540054
_ALPHA = 0.05
_HALVINGS = 50  # of [0, 1]: exact to 1e-15


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its 95 % limits, from *n* observations; of none the limits say nothing."""

    value: float
    low: float
    high: float
    n: int


class Confusion(msgspec.Struct, frozen=True, kw_only=True):
    """Verdicts against labels: *passed_good* are good answers that the judge called good, and so on."""

    passed_good: int = 0
    failed_good: int = 0
    passed_bad: int = 0
    failed_bad: int = 0

    @property
    def good(self) -> int:
        return self.passed_good + self.failed_good

    @property
    def bad(self) -> int:
        return self.passed_bad + self.failed_bad

    @property
    def total(self) -> int:
        return self.good + self.bad


def confusion(verdicts: Sequence[bool], labels: Sequence[bool]) -> Confusion:
    """Count *verdicts* against *labels*, pair by pair."""
    pairs = list(zip(verdicts, labels, strict=True))
    return Confusion(
        passed_good=pairs.count((True, True)),
        failed_good=pairs.count((False, True)),
        passed_bad=pairs.count((True, False)),
        failed_bad=pairs.count((False, False)),
    )


@lru_cache(maxsize=4096)
def proportion(hits: int, n: int) -> Interval:
    """*hits* of *n*, n > 0, with the exact limits of Clopper and Pearson, Biometrika 26 (1934)."""
    low = 0.0 if hits == 0 else _solve(lambda p: _at_least(hits, n, p) < _ALPHA / 2)
    high = 1.0 if hits == n else _solve(lambda p: 1 - _at_least(hits + 1, n, p) > _ALPHA / 2)
    return Interval(value=hits / n, low=low, high=high, n=n)


def youden(tpr: Interval, tnr: Interval) -> Interval:
    """J = TPR + TNR - 1 of two independent samples.

    Limits by MOVER, which recovers variances from the limits of the parts: Zou and Donner, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27 (2008).
    """
    value = tpr.value + tnr.value - 1
    low = value - math.hypot(tpr.value - tpr.low, tnr.value - tnr.low)
    high = value + math.hypot(tpr.high - tpr.value, tnr.high - tnr.value)
    return Interval(value=value, low=max(-1.0, low), high=min(1.0, high), n=tpr.n + tnr.n)


def kappa(table: Confusion) -> Interval:
    """Cohen's kappa of *table*, n > 0 of each class.

    With the classes' sizes given it is a function of TPR and TNR, and rises with both. Limits by squaring and
    adding what each one's limit moves it by (MOVER, Zou and Donner 2008): unlike those of the large-sample
    variance (Fleiss, Cohen and Everitt 1969) they hold near 1, where good judges are.
    """
    tpr, tnr = proportion(table.passed_good, table.good), proportion(table.failed_bad, table.bad)

    def at(true_passed: float, true_failed: float) -> float:
        return _kappa(table.good, table.bad, true_passed, true_failed)

    value = at(tpr.value, tnr.value)
    down = math.hypot(value - at(tpr.low, tnr.value), value - at(tpr.value, tnr.low))
    up = math.hypot(at(tpr.high, tnr.value) - value, at(tpr.value, tnr.high) - value)
    return Interval(value=value, low=max(-1.0, value - down), high=min(1.0, value + up), n=table.total)


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where either does not vary."""
    if len(x) < 2:
        return 0.0
    ranks = np.array([_ranks(x), _ranks(y)])
    if (ranks.std(axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def length_correlation(
    scores: Sequence[float], lengths: Sequence[float], labels: Sequence[bool]
) -> Interval | None:
    """How the score goes with the length of the answer among answers of the same label. None: too few.

    Among equals, because good answers may well be longer: only what length adds to being good counts. The
    classes' Spearman correlations are averaged on Fisher's scale, each with the weight of its n - 3, and the
    limits are Fisher's with the factor 1.06 of Fieller, Hartley and Pearson, Biometrika 44 (1957).
    """
    total = weight = 0.0
    for label in (True, False):
        rows = [at for at, given in enumerate(labels) if given == label]
        if len(rows) <= 3:
            continue
        found = correlation([scores[at] for at in rows], [lengths[at] for at in rows])
        total += (len(rows) - 3) * math.atanh(max(-0.999, min(0.999, found)))
        weight += len(rows) - 3
    if not weight:
        return None
    centre, spread = total / weight, Z95 * math.sqrt(1.06 / weight)
    low, high = math.tanh(centre - spread), math.tanh(centre + spread)
    return Interval(value=math.tanh(centre), low=low, high=high, n=len(labels))


def _at_least(hits: int, n: int, p: float) -> float:
    """P(X >= hits) of a binomial X."""
    if p <= 0 or p >= 1:
        return float(p >= 1 or hits <= 0)
    counts = np.arange(hits, n + 1)
    logs = _log_choose(n)[hits:] + counts * math.log(p) + (n - counts) * math.log1p(-p)
    return min(1.0, float(np.exp(logs).sum()))


@lru_cache(maxsize=256)
def _log_choose(n: int) -> Floats:
    steps = np.log(np.arange(1, n + 1))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chosen: Floats = logs[n] - logs - logs[::-1]
    return chosen


def _solve(is_below: Callable[[float], bool]) -> float:
    """Where *is_below* turns false on [0, 1], given that it is true below and false above."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _kappa(good: int, bad: int, tpr: float, tnr: float) -> float:
    """Agreement beyond chance of a judge with these rates on so many good and bad answers."""
    share = good / (good + bad)
    passed = share * tpr + (1 - share) * (1 - tnr)
    agreed = share * tpr + (1 - share) * tnr
    chance = share * passed + (1 - share) * (1 - passed)
    return (agreed - chance) / (1 - chance)


def _ranks(values: Sequence[float]) -> Floats:
    data = np.asarray(values, dtype=float)
    _, inverse, counts = np.unique(data, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks
