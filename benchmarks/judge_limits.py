"""`python -m benchmarks.judge_limits`: how often the limits that a calibration states hold the truth.

Simulated calibrations: judges with a known TPR and TNR on so many good and bad answers. The truth must lie
within the stated 95 % limits in at least 95 % of them, and J above its lower limit, which gates, more often.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import msgspec
import numpy as np

from benchmarks.machine import Machine, commit, this_machine
from benchmarks.result_file import tell
from judges.calibration.statistics import Confusion, kappa, proportion, youden

CALIBRATIONS = 2_000
SEED = 7
# Good and bad answers with a label, and how often the judge is right on each.
JUDGES = [
    (20, 20, 0.9, 0.9),
    (30, 30, 0.98, 0.98),
    (50, 50, 0.65, 0.65),
    (50, 50, 0.95, 0.9),
    (70, 30, 0.8, 0.8),
    (80, 20, 0.95, 0.7),
    (100, 100, 0.9, 0.85),
    (400, 100, 0.9, 0.6),
]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the calibrations in which the truth lay within the limits; `j_above`: J above its lower."""

    good: int
    bad: int
    true_tpr: float
    true_tnr: float
    tpr: float
    tnr: float
    j: float
    j_above: float
    kappa: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    at: datetime
    machine: Machine
    commit: str
    calibrations: int
    nominal: float
    judges: list[Held]


def held(good: int, bad: int, tpr: float, tnr: float, calibrations: int) -> Held:
    """How often the limits hold for a judge with these rates."""
    draw = np.random.default_rng(SEED)
    share = good / (good + bad)
    passed = share * tpr + (1 - share) * (1 - tnr)
    chance = share * passed + (1 - share) * (1 - passed)
    true_kappa = (share * tpr + (1 - share) * tnr - chance) / (1 - chance)
    counts = dict.fromkeys(["tpr", "tnr", "j", "j_above", "kappa"], 0)
    for _ in range(calibrations):
        right_good, right_bad = int(draw.binomial(good, tpr)), int(draw.binomial(bad, tnr))
        table = Confusion(
            passed_good=right_good,
            failed_good=good - right_good,
            passed_bad=bad - right_bad,
            failed_bad=right_bad,
        )
        on_good, on_bad, agreement = proportion(right_good, good), proportion(right_bad, bad), kappa(table)
        both = youden(on_good, on_bad)
        counts["tpr"] += on_good.low <= tpr <= on_good.high
        counts["tnr"] += on_bad.low <= tnr <= on_bad.high
        counts["j"] += both.low <= tpr + tnr - 1 <= both.high
        counts["j_above"] += both.low <= tpr + tnr - 1
        counts["kappa"] += agreement.low <= true_kappa <= agreement.high
    shares = {name: count / calibrations for name, count in counts.items()}
    return Held(good=good, bad=bad, true_tpr=tpr, true_tnr=tnr, **shares)


def main() -> None:
    """Print one JSON, and write it where `--name` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_limits", description=__doc__)
    parser.add_argument("--name", help="write benchmarks/results/NAME.json too")
    parser.add_argument("--calibrations", type=int, default=CALIBRATIONS)
    arguments = parser.parse_args()
    result = Result(
        at=datetime.now(UTC),
        machine=this_machine(),
        commit=commit(),
        calibrations=arguments.calibrations,
        nominal=0.95,
        judges=[held(*judge, arguments.calibrations) for judge in JUDGES],
    )
    tell(result, arguments.name)


if __name__ == "__main__":
    main()
