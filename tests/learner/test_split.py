from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.split import (
    MAX_GROUP_SHARE,
    NEAR_DUPLICATE,
    Unit,
    jaccard,
    near_duplicates,
    shingles,
    slice_of,
    split,
)

WORDS = ("order", "refund", "late", "parcel", "please", "cancel", "blue", "lamp")
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@st.composite
def traffic(draw: st.DrawFn) -> list[Unit]:
    rows = draw(
        st.lists(st.tuples(st.integers(0, 40), texts, st.booleans()), min_size=1, max_size=80),
    )
    return [
        Unit(trace_id=f"t{index}", session=f"s{session}", text=text, tagged=tagged and session < 4)
        for index, (session, text, tagged) in enumerate(rows)
    ]


def divided(units: list[Unit]):
    return split(units, holdout=0.3, similar=near_duplicates([unit.text for unit in units]))


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_every_trace_is_on_exactly_one_side(units: list[Unit]) -> None:
    sides = divided(units)
    assert not sides.train & sides.holdout
    assert sides.train | sides.holdout == {unit.trace_id for unit in units}


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_no_session_is_on_both_sides(units: list[Unit]) -> None:
    sides = divided(units)
    trained = {unit.session for unit in units if unit.trace_id in sides.train}
    held = {unit.session for unit in units if unit.trace_id in sides.holdout}
    assert not trained & held


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_no_near_duplicate_of_a_holdout_prompt_is_trained_on(units: list[Unit]) -> None:
    sides = divided(units)
    trained = [shingles(unit.text) for unit in units if unit.trace_id in sides.train]
    held = [shingles(unit.text) for unit in units if unit.trace_id in sides.holdout]
    assert all(jaccard(one, other) < NEAR_DUPLICATE for one in trained for other in held)


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_a_tagged_trace_is_never_trained_on(units: list[Unit]) -> None:
    sides = divided(units)
    assert not {unit.trace_id for unit in units if unit.tagged} & sides.train


@settings(max_examples=30, deadline=None)
@given(traffic(), st.randoms(use_true_random=False))
def test_the_sides_do_not_depend_on_the_order_of_the_traces(units: list[Unit], random) -> None:
    shuffled = list(units)
    random.shuffle(shuffled)
    assert divided(shuffled).holdout == divided(units).holdout


def test_about_the_asked_share_is_held_out() -> None:
    units = [Unit(trace_id=f"t{n}", session=f"s{n}", text=f"{n * 7919:x}", tagged=False) for n in range(2000)]
    sides = split(units, holdout=0.2, similar=[])
    assert 0.17 < len(sides.holdout) / len(units) < 0.23


def test_a_prompt_that_everybody_sends_does_not_fill_the_holdout() -> None:
    same = [
        Unit(trace_id=f"d{n}", session=f"d{n}", text="where is my order?", tagged=False) for n in range(300)
    ]
    rest = [Unit(trace_id=f"t{n}", session=f"t{n}", text=f"{n * 7919:x}", tagged=False) for n in range(300)]
    sides = divided([*same, *rest])
    largest = MAX_GROUP_SHARE * 0.3 * 600
    assert len(same) > largest
    assert {unit.trace_id for unit in same} <= sides.train
    assert sides.holdout


def test_one_changed_digit_is_a_near_duplicate_and_another_request_is_not() -> None:
    one = "Good morning, could you please cancel my order C4821 that I placed on March 3rd 2024? Thank you!"
    other = one.replace("C4821", "C4827")
    third = "Good morning, the parcel with my order C4821 of March 3rd 2024 has not arrived. Thank you!"
    assert near_duplicates([one, other, third]) == [(0, 1)]


def test_the_slice_is_the_first_holdout_tag_that_matches() -> None:
    assert slice_of({"template": "unseen", "app": "web"}, {"template": "unseen"}) == "template=unseen"
    assert slice_of({"template": "seen"}, {"template": "unseen"}) == "rest"
