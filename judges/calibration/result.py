"""What a calibration comes to: the row that is stored, its problems, and the words for people. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime

import msgspec

from gateway.traces.types import Calibration
from judges.calibration.labels import Labelled
from judges.calibration.measure import LENGTH_MAX, Measured, amount_at_least
from judges.calibration.statistics import Interval
from judges.standing import ORDER_CONSISTENCY_MIN

MIN_PER_CLASS = 10  # good and bad labels that a calibration needs of each
WANTED_PER_CLASS = 30  # below it, the report says how many more would do
FLIP_RATE_MAX = 0.05
RISEN_MAX = 0.1  # of the answers made longer or shorter and no better


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a calibration; stored as JSON beside the figures."""

    threshold: float
    disputed: int
    measured: Measured


def calibration_of(
    judge: str, version: str, found: Labelled, measured: Measured, *, threshold: float, now: datetime
) -> Calibration:
    """The row of what was *measured* against the labels that were *found*."""
    j, tpr, tnr, kappa = measured.j, measured.tpr, measured.tnr, measured.kappa
    return Calibration(
        calibration_id=os.urandom(8).hex(),
        judge=judge,
        version=version,
        calibrated_at=now,
        labels=measured.table.total + measured.abstained,
        source=found.source,
        j=j.value if j else None,
        j_low=j.low if j else None,
        tpr=tpr.value if tpr else None,
        tpr_low=tpr.low if tpr else None,
        tpr_high=tpr.high if tpr else None,
        tnr=tnr.value if tnr else None,
        tnr_low=tnr.low if tnr else None,
        tnr_high=tnr.high if tnr else None,
        kappa=kappa.value if kappa else None,
        kappa_low=kappa.low if kappa else None,
        kappa_high=kappa.high if kappa else None,
        flip_rate=measured.flip_rate,
        order_consistency=measured.order_consistency,
        length_correlation=measured.length.value if measured.length else None,
        injected=measured.injected_share,
        problems=list(problems(measured)),
        report=msgspec.json.encode(
            Report(threshold=threshold, disputed=found.disputed, measured=measured)
        ).decode(),
    )


def problems(measured: Measured) -> Iterator[str]:
    """Each `NAME: what and how much`. `judges.standing` says which of them forbid what."""
    passed = [case for case in measured.injected if case.passed]
    if passed:
        tried = sum(case.tried for case in measured.injected)
        worst = max(passed, key=lambda case: case.passed / case.tried)
        yield (
            f"injection: {sum(case.passed for case in passed)} of {tried} bad answers made to talk the judge "
            f"round passed as good; the worst: {worst.case} ({worst.passed} of {worst.tried})"
        )
    order = measured.order_consistency
    if order is not None and order < ORDER_CONSISTENCY_MIN:
        yield (
            f"position: {measured.consistent} of {measured.ordered} verdicts are the same in both orders "
            f"({order:.0%}, under {ORDER_CONSISTENCY_MIN:.0%})"
        )
    length = measured.length
    if length is not None and amount_at_least(length) > LENGTH_MAX:
        what = "longer" if length.value > 0 else "shorter"
        told = f"among equally good answers the {what} score higher, correlation {_shown(length)}"
        if measured.risen > RISEN_MAX * measured.resized:
            yield (
                f"length: {told}; made {what} and no better, {measured.risen} of {measured.resized} answers "
                "scored higher"
            )
        else:
            yield f"form: {told}; but answers made {what} do not score higher: it is how its errors look"
    rate = measured.flip_rate
    if rate is not None and rate > FLIP_RATE_MAX:
        changed = f"{measured.flipped} of {measured.repeated} verdicts changed when asked again"
        yield f"flips: {changed} ({rate:.0%}, bound {FLIP_RATE_MAX:.0%})"
    if measured.circular:
        yield (
            f"circular: {measured.circular} verdicts change when the judge is not shown the feedback that it "
            "is measured against; label some traces with --label to know how good it is without"
        )


def lines(judge: str, calibration: Calibration, report: Report) -> Iterator[str]:
    """The result in plain sentences."""
    source = _FROM[calibration.source]
    told = f"judge {judge} ({calibration.version}) on {calibration.labels} labels from {source}"
    yield told + (f"; {report.disputed} left out, because people disagree" if report.disputed else "")
    yield from _rates(report.measured)
    yield from _habits(report.measured)
    yield from (f"PROBLEM {problem}" for problem in calibration.problems)
    table = report.measured.table
    for name, count in (("good", table.good), ("bad", table.bad)):
        if count < WANTED_PER_CLASS:
            yield f"{WANTED_PER_CLASS - count} more labels of {name} answers would make the limits narrower"


def _rates(measured: Measured) -> Iterator[str]:
    table = measured.table
    if measured.tpr is not None:
        passed = f"of {table.good} answers that people called good it passed {table.passed_good}"
        yield f"{passed}: TPR {_shown(measured.tpr)}"
    if measured.tnr is not None:
        failed = f"of {table.bad} answers that people called bad it failed {table.failed_bad}"
        yield f"{failed}: TNR {_shown(measured.tnr)}"
    if measured.j is not None:
        yield f"J = TPR + TNR - 1 = {_shown(measured.j)}"
    if measured.kappa is not None:
        yield f"Cohen's kappa {_shown(measured.kappa)}"
    if measured.abstained:
        yield f"it abstained on {measured.abstained}; they count in neither"


def _habits(measured: Measured) -> Iterator[str]:
    if measured.repeated:
        yield f"asked twice, {measured.flipped} of {measured.repeated} verdicts changed"
    if measured.ordered:
        yield f"of {measured.ordered} pairs {measured.consistent} came to the same in both orders"
    if measured.length is not None:
        yield f"correlation with length among equally good answers {_shown(measured.length)}"
    tried = sum(case.tried for case in measured.injected)
    if tried:
        yield f"of {tried} attempts to talk it round {sum(case.passed for case in measured.injected)} worked"
    else:
        yield "attempts to talk it round: none could be made, it failed no answer that is labelled bad"
    if measured.cost_usd:
        yield f"asking cost {measured.cost_usd:.4f} USD"


_FROM = {
    "feedback": "feedback",
    "file": "a file",
    "terminal": "the terminal",
    "mixed": "several sources",
}


def _shown(found: Interval) -> str:
    return f"{found.value:.2f}, 95 % {found.low:.2f} to {found.high:.2f}"
