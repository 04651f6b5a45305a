from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.process_cpu import (
    PAGE_BYTES,
    TICKS_PER_S,
    cpu_s,
    most_resident_bytes,
    parse_busy,
    parse_most,
    parse_stat,
    process_tree,
    resident_bytes,
    tree,
)
from benchmarks.quantiles import median, percentile
from benchmarks.types import BenchmarkError, share_cores

# A name that holds all that separates the fields, as the kernel allows it.
STAT = "4242 (a ) R (b) S 17 4242 4242 0 -1 4194560 100 0 0 0 150 50 30 20 20 0 1 0 9 1000 77 184467 1 1 0"


def test_a_process_is_read_whatever_its_name_holds() -> None:
    stat = parse_stat(STAT)

    assert (stat.parent, stat.ticks, stat.ended_children_ticks, stat.resident_pages) == (17, 200, 50, 77)


def test_a_tree_holds_its_roots_and_all_that_descend_from_them_and_nobody_else() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5}

    assert tree([2], parents) == {2, 3, 4}
    assert tree([3, 5], parents) == {3, 4, 5, 6}
    assert tree([], parents) == set()


def test_a_process_that_has_ended_costs_and_holds_nothing() -> None:
    nobody = 2**22 + 1  # beyond the largest id that Linux gives

    assert cpu_s([nobody]) == 0
    assert resident_bytes(nobody) == 0
    with pytest.raises(BenchmarkError, match="has ended"):
        most_resident_bytes(nobody)


def test_this_process_is_in_its_own_tree_and_holds_at_most_its_most() -> None:
    me = os.getpid()

    assert me in process_tree([me])
    assert 0 < resident_bytes(me) <= most_resident_bytes(me) + 64 * PAGE_BYTES  # the kernel counts in batches


def test_the_most_memory_is_in_bytes() -> None:
    assert parse_most("Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t     12 kB\n") == 12 * 1024
    with pytest.raises(BenchmarkError):
        parse_most("Name:\tx\n")


def test_a_core_is_busy_with_processes_and_what_the_host_took_and_guests_count_once() -> None:
    text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 4 1000 2000 8 16 32 64 128\ncpu1 100 0 0 0 0 0 0 0 0 0\ncpu10 5 0 0 0 0 0 0 0 0 0\n"

    assert parse_busy(text, {0}) == 39 / TICKS_PER_S
    assert parse_busy(text, {0, 1}) == 139 / TICKS_PER_S


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_enough_others_do_not_exceed(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)

    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6


def test_the_99th_percentile_of_a_hundred_is_the_99th() -> None:
    assert percentile(range(1, 101), 99) == 99
    assert percentile(range(1, 101), 50) == 50
    assert percentile([7], 99) == 7


def test_a_median_is_between_the_halves() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5


@pytest.mark.parametrize("of", [median, lambda values: percentile(values, 50)])
def test_nothing_has_no_middle(of) -> None:
    with pytest.raises(ValueError, match="no values"):
        of([])


@pytest.mark.parametrize("available", [[0, 1], [3, 5], [0, 1, 2], [0, 1, 2, 3], list(range(64))])
def test_the_first_worker_shares_its_core_with_nobody(available: list[int]) -> None:
    cores = share_cores(available)
    first, second = cores.workers

    assert first not in {second, cores.load, *cores.beside}
    assert (second == cores.load) == (len(available) == 2)
    assert cores.shared == (len(available) < 4)
    assert {*cores.workers, cores.load, *cores.beside} <= set(available)


def test_one_core_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="two cores"):
        share_cores([0])
