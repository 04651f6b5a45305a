"""Is the comparison itself sound? Sequential tests of how units and verdicts fell on the two arms.

If a tenth of the units is assigned to the candidate, a tenth of the units that arrive, and of those that have
a verdict, must be the candidate's. Anything else (lost rows, a judge that abstains on one arm) makes every
other number meaningless. The e-value is Dirichlet-multinomial (Lindon and Malek, 2022), valid at every look.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lgamma, log

import msgspec

CONCENTRATION = 1000.0  # prior weight on the intended split; higher watches for smaller deviations


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How many units of each arm were counted while the candidate's share was `share`, inside (0, 1)."""

    share: float
    candidate: int
    stable: int


def log_e_split(splits: Iterable[Split]) -> float:
    """Log of the e-value against "units fall on the arms as intended", over all stages; 0 without units."""
    return sum(_log_e_stage(split) for split in splits)


def _log_e_stage(split: Split) -> float:
    a1, a0 = CONCENTRATION * split.share, CONCENTRATION * (1 - split.share)
    n1, n0 = split.candidate, split.stable
    return _log_beta(a1 + n1, a0 + n0) - _log_beta(a1, a0) - n1 * log(split.share) - n0 * log(1 - split.share)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
