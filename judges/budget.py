"""What a judge may still do: so many traces a minute, so much money a day.

What was spent is asked of the store, so that every process that judges counts what all others spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from gateway.config.judges import JudgeLimits
from gateway.traces.store import Store
from judges.pacing import full, take


def midnight(now: datetime) -> datetime:
    """When the day of UTC began that *now* is in."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def spent_since(store: Store, judge: str, moment: datetime) -> float:
    """USD that *judge*, in all of its versions, has spent since *moment*: on judgments and on calibrations.

    Raises StoreError.
    """
    # Not final: a judgment that was replaced has been paid for as well, as long as the store still has it.
    (row,) = store.query(
        "SELECT ifNull(sum(cost_usd), 0) + ("
        "SELECT sum(JSONExtractFloat(report, 'measured', 'cost_usd')) FROM calibrations "
        "WHERE judge = {judge:String} AND calibrated_at >= {moment:DateTime64(6, 'UTC')}"
        ") AS usd FROM judgments "
        "WHERE judge = {judge:String} AND judged_at >= {moment:DateTime64(6, 'UTC')} SETTINGS final = 0",
        {"judge": judge, "moment": moment},
    )
    return float(row["usd"] or 0.0)


class Budget:
    """Of one judge of this process. One thread owns it.

    `sync` before judging and after each insert; `charge` with each answer; `exhausted` and `wait_s` before
    each trace.
    """

    def __init__(
        self, judge: str, limits: JudgeLimits, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._judge = judge
        self._limits = limits
        self._clock = clock
        self._day = midnight(clock())
        self._spent = 0.0
        self._bucket = None if limits.per_minute is None else full(limits.per_minute, time.monotonic())

    def sync(self, store: Store) -> None:
        """Count what every process has spent today. Raises StoreError."""
        if self._limits.usd_per_day is not None:
            self._turn_day()
            # What was spent stays spent, though the store forgets judgments that were replaced.
            self._spent = max(self._spent, spent_since(store, self._judge, self._day))

    def charge(self, usd: float | None) -> None:
        """Count what an answer cost that is not stored yet."""
        if usd:
            self._turn_day()
            self._spent += usd

    def exhausted(self) -> bool:
        """Whether the judge has to wait for the next day."""
        if self._limits.usd_per_day is None:
            return False
        self._turn_day()
        return self._spent >= self._limits.usd_per_day

    def wait_s(self) -> float:
        """Take the turn of one more trace: 0 where it is taken, else how long to wait before the next try."""
        if self._bucket is None or self._limits.per_minute is None:
            return 0.0
        self._bucket, wait_s = take(self._bucket, self._limits.per_minute, time.monotonic())
        return wait_s

    def told(self) -> str:
        """One line for people: which setting is reached, and when the judge goes on."""
        limit = self._limits.usd_per_day or 0.0
        resumes = self._day + timedelta(days=1)
        return (
            f"judge {self._judge} pauses: its limits.usd_per_day of {limit:g} USD is reached "
            f"({self._spent:.4g} spent since midnight UTC); it goes on at {resumes:%Y-%m-%d %H:%M} UTC, "
            "or when that is raised"
        )

    def _turn_day(self) -> None:
        today = midnight(self._clock())
        if today > self._day:
            self._day, self._spent = today, 0.0
