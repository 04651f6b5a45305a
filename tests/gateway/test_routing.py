"""Routing is a pure function: sums, stickiness, nested shares, proportions."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import Buckets, choose_variant, scale, unit_of
from gateway.table import TableRollout, TableRoute, TableVariant

SALT = b"s" * 32


def route_of(*weights: tuple[str, float], candidate: str | None = None, rollout: str = "r1") -> TableRoute:
    """A route whose first variant is stable."""
    variants = [
        TableVariant(name=name, upstream="up", model=name, snapshot=None, weight=weight, stable=index == 0)
        for index, (name, weight) in enumerate(weights)
    ]
    trial = candidate and TableRollout(
        rollout=rollout, snapshot=candidate, candidate=candidate, paused=False, stage=0
    )
    return TableRoute(
        model="bot",
        version=1,
        sticky_by="session",
        variants=variants,
        fallbacks=[],
        capture="full",
        rollout=trial or None,
    )


units = st.text(max_size=40)
shares = st.integers(0, 100).map(lambda percent: percent / 100)


@given(units, st.binary(min_size=32, max_size=32), shares)
def test_the_same_unit_always_gets_the_same_variant(unit: str, salt: bytes, share: float):
    route = route_of(("stable", 1 - share), ("new", share), candidate="new")

    assert choose_variant(route, unit, salt) == choose_variant(route, unit, salt)


@given(units, shares, shares)
def test_raising_the_share_moves_nobody_off_the_candidate(unit: str, one: float, other: float):
    low, high = sorted((one, other))
    before = choose_variant(route_of(("stable", 1 - low), ("new", low), candidate="new"), unit, SALT)
    after = choose_variant(route_of(("stable", 1 - high), ("new", high), candidate="new"), unit, SALT)

    assert not (before.variant.name == "new" and after.variant.name != "new")


@given(units, shares, shares)
def test_a_candidate_takes_its_share_from_stable_alone(unit: str, one: float, other: float):
    low, high = (share * 0.5 for share in sorted((one, other)))

    def variant_at(share: float) -> str:
        route = route_of(("stable", 0.7 - share), ("other", 0.3), ("new", share), candidate="new")
        return choose_variant(route, unit, SALT).variant.name

    moved = (variant_at(low), variant_at(high))

    # `other` keeps its width and is pushed along the scale: whoever leaves it leaves for the candidate.
    assert moved[0] == moved[1] or moved[1] in {"new", "other"}
    assert moved[0] != "new" or moved[1] == "new"


@given(units, st.lists(st.integers(0, 10), min_size=1, max_size=5).filter(any))
def test_only_variants_with_weight_are_chosen_and_the_propensity_is_the_weight(unit: str, parts: list[int]):
    weights = [(f"v{index}", part / sum(parts)) for index, part in enumerate(parts)]
    assignment = choose_variant(route_of(*weights), unit, SALT)

    assert assignment.variant.weight > 0
    assert assignment.propensity == assignment.variant.weight


@given(st.lists(st.integers(0, 10), min_size=1, max_size=5).filter(any))
def test_the_scale_holds_every_variant_once_and_stable_last(parts: list[int]):
    route = route_of(*[(f"v{index}", part / sum(parts)) for index, part in enumerate(parts)])

    assert sorted(variant.name for variant in scale(route)) == sorted(v.name for v in route.variants)
    assert scale(route)[-1].stable
    assert sum(variant.weight for variant in scale(route)) == pytest.approx(1)


def test_units_are_spread_in_proportion_to_the_weights():
    route = route_of(("stable", 0.6), ("other", 0.3), ("new", 0.1), candidate="new")
    names = Counter(choose_variant(route, f"client\0session-{n}", SALT).variant.name for n in range(20_000))

    # Four standard deviations of a binomial count of 20,000.
    assert names["stable"] == pytest.approx(12_000, abs=280)
    assert names["other"] == pytest.approx(6_000, abs=260)
    assert names["new"] == pytest.approx(2_000, abs=170)


@given(units, st.one_of(st.none(), units))
def test_a_bucket_lies_in_the_unit_interval_and_depends_on_the_salt(unit: str, rollout: str | None):
    one, other = (Buckets(salt, "bot", rollout).of(unit) for salt in (SALT, b"t" * 32))

    assert 0 <= one < 1
    assert one != other


@given(units, st.one_of(st.none(), st.just("r1")))
def test_a_bucket_is_a_keyed_hash_of_route_rollout_and_unit(unit: str, rollout: str | None):
    message = f"bot\0{rollout or ''}\0{unit}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(message, key=SALT, digest_size=8).digest()

    assert Buckets(SALT, "bot", rollout).of(unit) == pytest.approx(int.from_bytes(digest, "big") / 2**64)


def test_another_rollout_assigns_anew():
    def on_candidate(rollout: str) -> list[bool]:
        route = route_of(("stable", 0.5), ("new", 0.5), candidate="new", rollout=rollout)
        return [choose_variant(route, f"u{n}", SALT).variant.name == "new" for n in range(200)]

    assert on_candidate("r1") != on_candidate("r2")


def test_sessions_and_subjects_belong_to_their_client():
    def unit(sticky_by: str, client: str, subject: str | None = "ada") -> str:
        return unit_of(sticky_by, client=client, session="s", subject=subject, trace_id="t")

    assert unit("session", "web") != unit("session", "ios")
    assert unit("subject", "web") != unit("subject", "ios")
    assert unit("subject", "web", None) == unit("session", "web")
    assert unit("request", "web") == "t"
