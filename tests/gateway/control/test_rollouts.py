"""Laws of the decisions a route can undergo, tried by random histories."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway import rollouts
from gateway.rollouts import Decision, Former, IllegalTransitionError, ShareError, StaleVersionError
from gateway.routing import choose_variant
from gateway.table import TableRoute, TableVariant

AT = Decision(at_us=1_700_000_000_000_000, who="test", why="a law", evidence={"n": 3})
shares = st.floats(min_value=0.0, max_value=1.0, allow_nan=False)


def variant(name: str, weight: float, *, stable: bool = False) -> TableVariant:
    return TableVariant(
        name=name, upstream="u", model=f"m-{name}", snapshot=None, weight=weight, stable=stable
    )


def a_route(*others: float) -> TableRoute:
    variants = [variant(f"arm-{index}", weight) for index, weight in enumerate(others)]
    stable = variant("stable", 1 - math.fsum(others), stable=True)
    return TableRoute(
        model="bot",
        version=0,
        sticky_by="session",
        variants=[stable, *variants],
        fallbacks=[],
        capture="full",
        rollout=None,
    )


def started(route: TableRoute, share: float = 0.1, snapshot: str = "bot-1") -> TableRoute:
    after, _ = rollouts.start(route, AT, rollout="ro-1", snapshot=snapshot, upstream="local", share=share)
    return after


def former_of(route: TableRoute, rollout: str = "ro-1", snapshot: str = "bot-1") -> Former:
    return Former(rollout=rollout, snapshot=snapshot, variants=route.variants)


class Rollouts(RuleBasedStateMachine):
    """Any history of legal decisions, with a model of what a rollback must restore."""

    @initialize(others=st.lists(st.floats(min_value=0, max_value=0.3), max_size=3))
    def configure(self, others: list[float]) -> None:
        self.route = a_route(*others)
        self.history: list[Former] = []
        self.count = 0

    def take(self, transition: rollouts.Transition, event: str) -> None:
        before, (self.route, recorded) = self.route, transition
        assert self.route.version == before.version + 1
        assert (recorded.version, recorded.event, recorded.route) == (self.route.version, event, "bot")
        assert recorded.evidence["table"] == msgspec.to_builtins(self.route.variants)
        assert recorded.evidence["n"] == 3

    @invariant()
    def weights_sum_to_one_with_one_stable(self) -> None:
        assert abs(math.fsum(v.weight for v in self.route.variants) - 1) < 1e-9
        assert all(0 <= v.weight <= 1 for v in self.route.variants)
        assert sum(v.stable for v in self.route.variants) == 1
        assert len({v.name for v in self.route.variants}) == len(self.route.variants)
        assert len(self.route.variants) <= 4 + 3  # configured, former stable, stable, candidate

    @precondition(lambda self: self.route.rollout is None)
    @rule(share=shares)
    def start(self, share: float) -> None:
        self.count += 1
        others = {v.name: v.weight for v in self.route.variants if not v.stable}
        call = {"rollout": f"ro-{self.count}", "snapshot": f"bot-{self.count}", "upstream": "local"}
        try:
            transition = rollouts.start(self.route, AT, share=share, **call)
        except ShareError:
            assert share > 1 - math.fsum(others.values())
            return
        self.history.append(former_of(self.route, call["rollout"], call["snapshot"]))
        self.take(transition, "started")
        assert rollouts.candidate_share(self.route) == pytest.approx(share)
        assert {n: w for n, w in ((v.name, v.weight) for v in self.route.variants) if n in others} == others

    @precondition(lambda self: self.route.rollout is not None)
    @rule(share=shares)
    def weight(self, share: float) -> None:
        assert self.route.rollout is not None
        stage, candidate = self.route.rollout.stage, self.route.rollout.candidate
        try:
            transition = rollouts.set_weight(self.route, AT, share=share)
        except ShareError:
            return
        self.take(transition, "weight")
        assert self.route.rollout is not None
        assert (self.route.rollout.stage, self.route.rollout.candidate) == (stage + 1, candidate)

    @precondition(lambda self: self.route.rollout is not None)
    @rule()
    def pause_and_resume(self) -> None:
        assert self.route.rollout is not None
        kept = (self.route.variants, self.route.rollout.stage)
        with pytest.raises(IllegalTransitionError):
            rollouts.resume(self.route, AT)
        self.take(rollouts.pause(self.route, AT), "paused")
        for refused in (rollouts.pause, rollouts.promote):
            with pytest.raises(IllegalTransitionError):
                refused(self.route, AT)
        self.take(rollouts.resume(self.route, AT), "resumed")
        assert kept == (self.route.variants, self.route.rollout.stage)

    @precondition(lambda self: self.route.rollout is not None)
    @rule()
    def promote(self) -> None:
        assert self.route.rollout is not None
        former, candidate = self.route.stable.name, self.route.rollout.candidate
        self.take(rollouts.promote(self.route, AT), "promoted")
        assert (self.route.stable.name, self.route.stable.weight) == (candidate, 1.0)
        kept = self.route.variant(former)
        assert kept is not None
        assert (kept.weight, kept.stable) == (0.0, False)

    @precondition(lambda self: self.history)
    @rule()
    def rollback_restores_exactly(self) -> None:
        former = self.history.pop()
        self.take(rollouts.rollback(self.route, AT, former=former), "rolled_back")
        assert self.route.variants == former.variants
        assert self.route.rollout is None

    @precondition(lambda self: self.route.rollout is not None)
    @rule()
    def conclude_restores_exactly(self) -> None:
        former = self.history.pop()
        self.take(rollouts.conclude(self.route, AT, former=former), "inconclusive")
        assert self.route.variants == former.variants
        assert self.route.rollout is None

    @precondition(lambda self: self.route.rollout is not None)
    @rule()
    def a_second_start_is_illegal(self) -> None:
        with pytest.raises(IllegalTransitionError, match="first"):
            rollouts.start(self.route, AT, rollout="x", snapshot="y", upstream="local", share=0)

    @precondition(lambda self: self.route.rollout is None)
    @rule()
    def nothing_happens_to_no_rollout(self) -> None:
        for refused in (rollouts.pause, rollouts.resume, rollouts.promote):
            with pytest.raises(IllegalTransitionError, match="no rollout"):
                refused(self.route, AT)
        with pytest.raises(IllegalTransitionError, match="no rollout"):
            rollouts.set_weight(self.route, AT, share=0.5)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_rollback_of_a_promotion_restores_the_variants_exactly():
    route = a_route(0.1, 0.2)
    promoted, _ = rollouts.promote(started(route, 0.3), AT)
    back, event = rollouts.rollback(promoted, AT, former=former_of(route))
    assert back.variants == route.variants
    assert (event.event, event.rollout, event.snapshot) == ("rolled_back", "ro-1", "bot-1")


def test_a_share_beyond_what_stable_has_is_refused_and_says_how_much_there_is():
    with pytest.raises(ShareError, match=r"between 0 and 0\.7"):
        started(a_route(0.3), 0.8)
    with pytest.raises(ShareError, match="does not fit"):
        started(a_route(), float("nan"))


def test_a_snapshot_that_serves_the_route_cannot_be_its_candidate():
    promoted, _ = rollouts.promote(started(a_route()), AT)
    with pytest.raises(IllegalTransitionError, match="in force already"):
        started(promoted)


def test_a_former_stable_snapshot_may_be_tried_again():
    route = a_route()
    first, _ = rollouts.promote(started(route), AT)
    second, _ = rollouts.promote(started(first, snapshot="bot-2"), AT)
    again = started(second, 0.25, "bot-1")
    assert [v.name for v in again.variants] == ["stable", "bot-2", "bot-1"]
    assert rollouts.candidate_share(again) == 0.25


def test_a_stale_version_names_the_current_one():
    rollouts.require_version(a_route(), None)
    rollouts.require_version(a_route(), 0)
    with pytest.raises(StaleVersionError, match="at version 1, not 0"):
        rollouts.require_version(started(a_route()), 0)


def test_another_rollout_cannot_be_rolled_back_while_one_runs():
    route = started(a_route())
    with pytest.raises(IllegalTransitionError, match="ro-1"):
        rollouts.rollback(route, AT, former=former_of(route, "ro-0"))


@given(
    others=st.lists(st.floats(min_value=0, max_value=0.3), max_size=3),
    steps=st.lists(st.floats(min_value=0, max_value=1), min_size=2, max_size=6, unique=True),
    units=st.lists(st.text(max_size=8), min_size=1, max_size=30),
)
def test_raising_the_share_moves_nobody_off_the_candidate(
    others: list[float], steps: list[float], units: list[str]
):
    free = 1 - math.fsum(others)
    rising = sorted(step * free for step in steps)
    route, salt = started(a_route(*others), rising[0]), b"s" * 32
    on_candidate: set[str] = set()
    for share in rising[1:]:
        try:
            route, _ = rollouts.set_weight(route, AT, share=share)
        except ShareError:
            continue
        now = {unit for unit in units if choose_variant(route, unit, salt).variant.name == "bot-1"}
        assert on_candidate <= now
        on_candidate = now
