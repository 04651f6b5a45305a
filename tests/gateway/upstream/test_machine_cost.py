"""A machine paid by the hour: what requests cost adds up to what the machine costs, and to no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.machine_cells import machine_of
from gateway.upstream.machine_cost import MAX_SURCHARGE, WINDOW_S, MachineTime, cells_for
from tests.support.control_gateway import REPOSITORY

HOUR = 3600.0  # USD per hour: a machine second costs one dollar
START = 1000.0


class Stay(NamedTuple):
    """One request: its worker, when it comes and how long it stays."""

    worker: int
    start: float
    length: float


class Ledger(NamedTuple):
    costs: list[float]  # in the order of the stays
    elapsed: float  # from the first request's start to the last one's end
    idle: float  # seconds of it in which nobody was there
    owed: float  # at the end


def account(workers: int) -> memoryview[float]:
    return memoryview(bytearray(8 * cells_for(workers))).cast("d")


def run(stays: list[Stay], workers: int) -> Ledger:
    """Each stay on a machine that *workers* share, in the order of time."""
    cells = account(workers)
    machines = [MachineTime(HOUR, cells, worker) for worker in range(workers)]
    events = sorted(
        [(START + stay.start, 0, i) for i, stay in enumerate(stays)]
        + [(START + stay.start + stay.length, 1, i) for i, stay in enumerate(stays)]
    )
    entered, costs = [0.0] * len(stays), [0.0] * len(stays)
    inside, idle, since = 0, 0.0, events[0][0]
    for at, ends, i in events:
        if not inside:
            idle += at - since
        since = at
        machine = machines[stays[i].worker]
        if ends:
            costs[i], inside = machine.leave(entered[i], at), inside - 1
        else:
            entered[i], inside = machine.enter(at), inside + 1
    elapsed = events[-1][0] - events[0][0]
    return Ledger(costs, elapsed, idle, machines[0].owed_s(events[-1][0]))


def stays(*, workers: int, pause: float = 40.0, length: float = 30.0) -> st.SearchStrategy[list[Stay]]:
    """Requests that come one after the other within *pause* seconds, and overlap or do not."""
    one = st.tuples(st.integers(0, workers - 1), st.floats(0, pause), st.floats(0.01, length))

    def at(drawn: list[tuple[int, float, float]]) -> list[Stay]:
        now, found = 0.0, []
        for worker, after, stay in drawn:
            now += after
            found.append(Stay(worker, now, stay))
        return found

    return st.lists(one, min_size=1, max_size=40).map(at)


@given(stays(workers=1))
def test_every_second_in_use_is_paid_for_and_no_second_twice(found: list[Stay]):
    ledger = run(found, workers=1)

    assert ledger.elapsed - ledger.idle <= sum(ledger.costs) + 1e-6
    assert sum(ledger.costs) <= ledger.elapsed + 1e-6


@given(st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), stays(workers=n, pause=WINDOW_S / 40))))
def test_costs_through_any_workers_add_up_to_the_price_but_for_idle_time_that_is_still_owed(
    drawn: tuple[int, list[Stay]],
):
    workers, found = drawn
    ledger = run(found, workers)

    assert sum(ledger.costs) + ledger.owed == pytest.approx(ledger.elapsed, abs=1e-6)
    assert -1e-6 <= ledger.owed <= WINDOW_S


@given(st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), stays(workers=n, pause=2 * WINDOW_S))))
def test_requests_never_pay_more_than_the_machine_costs_nor_one_more_than_the_surcharge_allows(
    drawn: tuple[int, list[Stay]],
):
    workers, found = drawn
    ledger = run(found, workers)

    assert sum(ledger.costs) <= ledger.elapsed + 1e-6
    assert sum(ledger.costs) + ledger.owed >= ledger.elapsed - ledger.idle - 1e-6, "only pauses are forgiven"
    for stay, cost in zip(found, ledger.costs, strict=True):
        assert 0 <= cost <= MAX_SURCHARGE * stay.length + 1e-6


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 500), st.floats(0.1, 50)), min_size=1, max_size=30)
)
def test_requests_that_do_not_overlap_cost_the_same_through_whichever_worker(
    drawn: list[tuple[int, float, float]],
):
    now, found = 0.0, []
    for worker, after, length in drawn:
        found.append(Stay(worker, now + after, length))
        now += after + length
    through_one = [stay._replace(worker=0) for stay in found]

    assert run(found, 4).costs == pytest.approx(run(through_one, 1).costs)


def test_one_request_that_fills_the_machine_costs_its_time():
    assert run([Stay(0, 0, 10)], 1).costs == pytest.approx([10])


@pytest.mark.parametrize("workers", [1, 2])
def test_two_at_once_cost_half_each(workers: int):
    assert run([Stay(0, 0, 10), Stay(workers - 1, 0, 10)], workers).costs == pytest.approx([5, 5])


def test_a_machine_whose_requests_all_come_through_one_of_its_workers_is_paid_for_whole():
    ledger = run([Stay(0, 2.0 * i, 1) for i in range(600)], workers=4)

    assert sum(ledger.costs) == pytest.approx(ledger.elapsed, rel=0.02)
    assert ledger.costs[-1] == pytest.approx(2, rel=0.01)


def test_a_busy_stretch_pays_for_the_pause_before_it_once():
    pause = WINDOW_S - 20
    ledger = run([Stay(0, 0, 10), *(Stay(0, 10 + pause + 10 * i, 10) for i in range(30))], workers=1)

    assert ledger.costs[0] == pytest.approx(10)
    assert ledger.costs[1:] == sorted(ledger.costs[1:], reverse=True)
    assert sum(ledger.costs[1:]) == pytest.approx(pause + 300, rel=0.001)
    assert ledger.costs[-1] == pytest.approx(10, rel=0.001)


@pytest.mark.parametrize("workers", [1, 3])
def test_of_a_long_pause_only_its_last_part_is_owed(workers: int):
    later = [Stay(i % workers, 10 * WINDOW_S + 10 * i, 10) for i in range(40)]
    ledger = run([Stay(0, 0, 10), *later], workers)

    assert sum(ledger.costs) == pytest.approx(10 + WINDOW_S + 400, rel=0.001)
    assert 0.9 * MAX_SURCHARGE < run([Stay(0, 0, 10), Stay(0, 10 * WINDOW_S, 1)], 1).costs[1] < MAX_SURCHARGE


def test_a_clock_that_began_anew_begins_a_new_account():
    cells = account(1)
    machine = MachineTime(HOUR, cells, 0)
    machine.leave(machine.enter(5_000.0), 5_010.0)

    assert machine.leave(machine.enter(7.0), 17.0) == pytest.approx(10)


def test_an_account_outlives_a_change_of_the_upstreams_settings(tmp_path: Path):
    before = machine_of("local", HOUR, tmp_path, worker=0, workers=1)
    entered = before.enter(START)
    after = machine_of("local", 2 * HOUR, tmp_path, worker=0, workers=1)
    again = after.enter(START + 10)

    assert before.leave(entered, START + 20) == pytest.approx(10 + 5)
    assert after.leave(again, START + 20) == pytest.approx(2 * 5)


def test_what_a_killed_worker_had_in_flight_takes_no_part_of_the_machine_once_it_is_replaced(tmp_path: Path):
    script = (
        "import sys, pathlib; from gateway.upstream.machine_cells import machine_of; "
        f"m = machine_of('local', {HOUR}, pathlib.Path(sys.argv[1]), worker=1, workers=2); "
        f"m.enter({START}) if sys.argv[2] == 'enter' else None"
    )
    mine = machine_of("local", HOUR, tmp_path, worker=0, workers=2)

    def other(what: str) -> None:
        command = [sys.executable, "-c", script, str(tmp_path), what]
        subprocess.run(command, check=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})

    other("enter")
    assert mine.leave(mine.enter(START), START + 10) == pytest.approx(5), "it may still be there"
    other("start again")
    costs = [mine.leave(mine.enter(START + at), START + at + 10) for at in range(10, 200, 10)]

    assert sum(costs) == pytest.approx(190 + 5, rel=0.001), "and what it used is owed like idle time"


def test_nobody_else_may_read_where_the_account_lies(tmp_path: Path):
    folder = tmp_path / "segments" / "machines"
    machine_of("local", HOUR, folder, worker=0, workers=1)
    (file,) = folder.iterdir()

    assert [path.stat().st_mode & 0o077 for path in (folder.parent, folder, file)] == [0, 0, 0]


def test_where_shared_memory_refuses_each_worker_accounts_for_its_part(tmp_path: Path):
    (tmp_path / "file").touch()
    machine = machine_of("local", HOUR, tmp_path / "file", worker=1, workers=4)

    assert machine.leave(machine.enter(START), START + 8) == pytest.approx(8 / 4)
