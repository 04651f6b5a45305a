"""Whatever happens in whatever order, the counters say what a simple model says: nothing lost, nothing twice.

Two ledgers stand for two workers. The model keeps a list of everything that was settled and of everything
that is held, and adds it up whenever it is asked.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.quotas import Ledger, Reservation, report_limits, save_left_behind
from gateway.quotas.amounts import DIMENSIONS, Amounts, in_units, nano_usd
from gateway.quotas.keeper import tick
from gateway.quotas.owners import sweep
from gateway.quotas.rules import rules_of
from gateway.quotas.windows import PERIODS, Numbers, numbers_at
from tests.support.quotas import auth_of, files_in

MIDNIGHT_AT_THE_END_OF_A_MONTH = 1_780_272_000.0  # 2026-06-01T00:00:00Z

# To look at every number that is counted, whatever the limits are.
EVERYTHING = auth_of(web=[{"per": per, "requests": 10**9, "tokens": 10**9, "usd": 10**6} for per in PERIODS])
tokens = st.integers(min_value=0, max_value=120)
usd = st.integers(min_value=0, max_value=1_000).map(lambda thousandths: thousandths / 1000)
limits = st.lists(
    st.fixed_dictionaries(
        {"per": st.sampled_from(PERIODS), "requests": st.integers(1, 9)},
        optional={
            "tokens": st.integers(1, 300),
            "usd": st.integers(1, 3_000).map(lambda thousandths: thousandths / 1000),
        },
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda limit: limit["per"],
)


class LedgerModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = files_in(self.folder)
        self.at_s = MIDNIGHT_AT_THE_END_OF_A_MONTH - 150
        self.workers = [Ledger(self.files), Ledger(self.files)]
        self.held: dict[Reservation, int] = {}  # by the worker that holds it
        self.settled: list[tuple[Numbers, Amounts]] = []

    def teardown(self) -> None:
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.folder)

    @initialize(entries=limits)
    def start(self, entries: list[dict[str, Any]]) -> None:
        self.configure(entries)

    @rule(entries=limits)
    def reload(self, entries: list[dict[str, Any]]) -> None:
        self.configure(entries)

    def configure(self, entries: list[dict[str, Any]]) -> None:
        self.auth = auth_of(web=entries)
        assert self.auth.keys
        self.rules = rules_of(self.auth.keys[0])
        self.accounts = [worker.accounts(self.auth)["web"] for worker in self.workers]

    @rule(seconds=st.sampled_from([1, 30, 60, 60, 120, 120, 3600, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.at_s += seconds

    @rule(worker=st.sampled_from([0, 1]), tokens=tokens, usd=usd)
    def reserve(self, worker: int, tokens: int, usd: float) -> None:
        wanted = Amounts(1, tokens, nano_usd(usd))
        numbers = numbers_at(self.at_s)
        fits = all(
            self.used(numbers, period)[dimension]
            + self.reserved(numbers, period)[dimension]
            + wanted[dimension]
            <= most
            for period, dimension, most in self.rules
        )

        taken = self.workers[worker].reserve(self.accounts[worker], self.at_s, tokens=tokens, usd=usd)

        assert isinstance(taken, Reservation) == fits
        if isinstance(taken, Reservation):
            self.held[taken] = worker

    @rule(worker=st.sampled_from([0, 1]), tokens=tokens, usd=usd)
    def request(self, worker: int, tokens: int, usd: float) -> None:
        before = set(self.held)
        self.reserve(worker, tokens, usd)
        for taken in set(self.held) - before:
            self.workers[self.held.pop(taken)].settle(taken, tokens=tokens, usd=usd)
            self.settled.append((taken.numbers, taken.held))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), requests=st.sampled_from([0, 1]), tokens=st.none() | tokens, usd=st.none() | usd)
    def settle(self, data: st.DataObject, requests: int, tokens: int | None, usd: float | None) -> None:
        reservation = data.draw(st.sampled_from(list(self.held)))
        worker = self.held.pop(reservation)

        self.workers[worker].settle(reservation, requests=requests, tokens=tokens, usd=usd)

        used = Amounts(
            requests,
            reservation.held.tokens if tokens is None else tokens,
            reservation.held.nano_usd if usd is None else nano_usd(usd),
        )
        self.settled.append((reservation.numbers, used))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(list(self.held)))
        self.workers[self.held.pop(reservation)].release(reservation)

    @rule(worker=st.sampled_from([0, 1]))
    def die_and_come_back(self, worker: int) -> None:
        self.workers[worker].close()
        self.workers[worker] = Ledger(self.files)
        self.accounts[worker] = self.workers[worker].accounts(self.auth)["web"]
        sweep(self.workers[worker].counters)
        self.held = {held: owner for held, owner in self.held.items() if owner != worker}

    @rule()
    def stop_and_start(self) -> None:
        for worker in self.workers:
            worker.close()
        save_left_behind(self.files, self.at_s)
        shutil.rmtree(self.files.folder)
        self.held = {}
        self.workers = [Ledger(self.files), Ledger(self.files)]
        self.accounts = [worker.accounts(self.auth)["web"] for worker in self.workers]

    @rule(worker=st.sampled_from([0, 1]))
    def keep(self, worker: int) -> None:
        asyncio.run(tick(self.workers[worker], self.at_s))

    @invariant()
    def the_report_is_what_was_settled_and_what_is_held(self) -> None:
        for at_s in (self.at_s, self.at_s - 60):
            numbers = numbers_at(at_s)
            for worker in self.workers:
                (report,) = report_limits(worker.counters, EVERYTHING, at_s)
                for window in report.windows:
                    period = PERIODS.index(window.per)
                    if numbers[period] < numbers_at(self.at_s)[period] - 1:
                        continue
                    self.compare(numbers, period, window)

    def compare(self, numbers: Numbers, period: int, window: Any) -> None:
        for dimension, name in enumerate(DIMENSIONS):
            standing = getattr(window, name)
            if standing is not None:
                used, reserved = self.used(numbers, period), self.reserved(numbers, period)
                assert standing.used == in_units(dimension, used[dimension])
                assert standing.reserved == in_units(dimension, reserved[dimension])
                assert standing.left >= 0

    def used(self, numbers: Numbers, period: int) -> list[int]:
        return _sums([used for at, used in self.settled if at[period] == numbers[period]])

    def reserved(self, numbers: Numbers, period: int) -> list[int]:
        return _sums([held.held for held in self.held if held.numbers[period] == numbers[period]])


def _sums(amounts: list[Amounts]) -> list[int]:
    return [sum(each[dimension] for each in amounts) for dimension in range(3)]


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
