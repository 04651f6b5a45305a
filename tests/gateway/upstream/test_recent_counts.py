"""What is counted as recent, against a list of everything that happened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.recent_counts import SLICES, RecentCounts

WINDOW_S = 10.0
SLICE_S = WINDOW_S / SLICES
WAITS = st.one_of(st.just(0.0), st.floats(0, 2 * SLICE_S), st.floats(0, 3 * WINDOW_S))
ROUNDING_S = 1e-6


@given(st.lists(st.tuples(WAITS, st.integers(0, 2)), max_size=60), st.floats(0, 1e6), WAITS)
def test_what_is_older_than_the_window_never_counts_and_what_is_a_slice_younger_always_does(
    events: list[tuple[float, int]], start: float, last_wait: float
):
    counts = RecentCounts(3, WINDOW_S)
    happened: list[tuple[float, int]] = []
    now = start
    for wait, thing in events:
        now += wait
        counts.add(thing, now)
        happened.append((now, thing))
    now += last_wait

    for thing, counted in enumerate(counts.totals(now)):
        ages = [now - at for at, what in happened if what == thing]
        assert counted <= sum(age <= WINDOW_S + ROUNDING_S for age in ages)
        assert counted >= sum(age < WINDOW_S - SLICE_S - ROUNDING_S for age in ages)


def test_nothing_is_left_after_clearing():
    counts = RecentCounts(2, WINDOW_S)
    counts.add(1, 0.0)
    counts.add(1, 5.0)
    counts.clear()

    assert counts.totals(5.0) == [0, 0]
    counts.add(0, 5.5)
    assert counts.totals(9.0) == [1, 0]


def test_memory_does_not_grow_with_what_happens():
    counts = RecentCounts(2, WINDOW_S)
    for step in range(10_000):
        counts.add(step % 2, step * 0.01)

    assert len(counts._slices) == SLICES
    assert sum(counts.totals(99.99)) <= WINDOW_S / 0.01
