"""The closing table claims no price that is not known."""

from __future__ import annotations

import pytest

from demo.report import variant_figures, wilson
from gateway.traces.store import Store
from tests.learner.rollout.world import World


def costs(store: Store) -> dict[str, float | None]:
    return {row.variant: row.cost_per_thousand_usd for row in variant_figures(store, "support", "resolved")}


def test_one_answer_of_unknown_cost_leaves_the_cost_of_its_variant_unknown(clean_store: Store) -> None:
    world = World(clean_store, "ro-1")
    for number in range(9):
        world.trace(f"s{number}", "stable", cost_usd=0.002)
        world.trace(f"c{number}", "candidate", cost_usd=0.0001)
    world.trace("c9", "candidate", cost_usd=None)
    world.write()

    assert costs(clean_store) == {"stable": pytest.approx(2.0), "snap-1": None}


def test_what_failed_attempts_cost_is_paid_by_the_answers_that_were_given(clean_store: Store) -> None:
    world = World(clean_store, "ro-1")
    world.trace("a", "stable", cost_usd=0.002)
    world.trace("b", "stable", cost_usd=0.001, outcome="truncated")
    world.trace("c", "stable", cost_usd=None, outcome="upstream_error", status=500)
    world.trace("d", "candidate", cost_usd=0.001, outcome="timeout", status=504)
    world.write()

    assert costs(clean_store) == {"stable": pytest.approx(3.0), "snap-1": None}


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(0.5, 100)

    assert low == pytest.approx(0.4038, abs=1e-4)  # Wilson 1927, as tabulated for 50 of 100
    assert high == pytest.approx(0.5962, abs=1e-4)
    assert wilson(0.0, 0) == (None, None)
