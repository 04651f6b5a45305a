"""A machine paid by the hour: what requests cost adds up to what the machine costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.machine_cost import UTILISATION_FLOOR, WINDOW_S, MachineTime

HOUR = 3600.0


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 20)), min_size=1, max_size=20))
def test_shares_add_up_to_the_time_in_which_anything_was_there(stays: list[tuple[float, float]]):
    machine = MachineTime(HOUR, workers=1, now=0.0)
    events = sorted(
        [(start, 0, index) for index, (start, _) in enumerate(stays)]
        + [(start + stay, 1, index) for index, (start, stay) in enumerate(stays)]
    )
    entered: dict[int, float] = {}
    costs = 0.0
    busy, since, inside = 0.0, 0.0, 0
    for at, ends, index in events:
        busy += (at - since) if inside else 0.0
        since = at
        if ends:
            inside -= 1
            costs += machine.leave(entered[index], at) * machine.utilisation(at)
        else:
            inside += 1
            entered[index] = machine.enter(at)

    assert costs == pytest.approx(busy)


def test_one_request_that_fills_the_machine_costs_its_time():
    machine = MachineTime(1.20, workers=1, now=100.0)
    entered = machine.enter(100.0)

    assert machine.leave(entered, 110.0) == pytest.approx(1.20 * 10 / HOUR)


def test_two_at_once_cost_half_each():
    machine = MachineTime(HOUR, workers=1, now=0.0)
    one, other = machine.enter(0.0), machine.enter(0.0)

    assert machine.leave(one, 10.0) == pytest.approx(5.0)
    assert machine.leave(other, 10.0) == pytest.approx(5.0)


def test_idle_time_is_paid_for():
    machine = MachineTime(HOUR, workers=1, now=0.0)
    entered = machine.enter(30.0)

    assert machine.leave(entered, 40.0) == pytest.approx(10.0 / (10 / 40))


def test_the_floor_bounds_what_a_lone_request_pays():
    machine = MachineTime(HOUR, workers=1, now=0.0)
    entered = machine.enter(10 * WINDOW_S)

    assert machine.leave(entered, 10 * WINDOW_S + 1) == pytest.approx(1 / UTILISATION_FLOOR)


def test_utilisation_forgets_what_left_the_window():
    machine = MachineTime(HOUR, workers=1, now=0.0)
    machine.leave(machine.enter(0.0), WINDOW_S)
    assert machine.utilisation(WINDOW_S) == pytest.approx(1.0)

    assert machine.utilisation(1.5 * WINDOW_S) == pytest.approx(0.5, abs=0.02)
    assert machine.utilisation(3 * WINDOW_S) == UTILISATION_FLOOR


def test_workers_share_the_price():
    alone, shared = (MachineTime(HOUR, workers=workers, now=0.0) for workers in (1, 2))

    assert shared.leave(shared.enter(0.0), 10.0) == pytest.approx(alone.leave(alone.enter(0.0), 10.0) / 2)
