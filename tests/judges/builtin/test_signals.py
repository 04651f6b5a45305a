from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import judges
from gateway.traces.types import Feedback
from judges.builtin import abandoned, accepted, edited, rating, retried
from judges.builtin.signals import MAX_EDIT_CHARS

NOW = datetime.now(UTC)


def said(kind: str, *, text: str | None = None, value: float | None = None) -> Feedback:
    return Feedback(
        feedback_id=kind,
        trace_id="t",
        session=None,
        client="",
        kind=kind,
        value=value,
        text=text,
        created_at=NOW,
    )


def asked(prompt: str, *, seconds_ago: float = 0, name: str = "t", **more: Any) -> judges.JudgedTrace:
    request = {"messages": [{"role": "user", "content": prompt}]}
    at = NOW - timedelta(seconds=seconds_ago)
    return judges.trace_from(request=request, answer="x", started_at=at, trace_id=name, **more)


def test_the_share_that_was_kept_is_the_score():
    assert edited(judges.trace_from(answer="abcd", kept="abcd")) == 1.0
    assert edited(judges.trace_from(answer="abcd", kept="abcx")) == 0.75
    assert edited(judges.trace_from(answer="abcd", kept="")) == 0.0
    assert isinstance(edited(judges.trace_from(answer="abcd")), judges.Abstain)


def test_texts_too_long_to_compare_are_not():
    assert isinstance(edited(judges.trace_from(answer="a" * (MAX_EDIT_CHARS + 1), kept="b")), judges.Abstain)


@pytest.mark.parametrize(("outcome", "score"), [("accepted", 1.0), ("edited", 0.3), ("rejected", 0.0)])
def test_an_outcome_is_a_score(outcome: str, score: float):
    trace = judges.trace_from(answer="x", feedback=[said("outcome", text=outcome)])
    assert accepted(trace, edited_score=0.3) == score


@pytest.mark.parametrize(
    "feedback", [[], [said("outcome", text="odd")], [said("outcome")]], ids=["none", "odd", "null"]
)
def test_no_known_outcome_says_nothing(feedback: list[Feedback]):
    assert isinstance(accepted(judges.trace_from(answer="x", feedback=feedback)), judges.Abstain)


def test_a_rating_is_its_own_score():
    assert rating(judges.trace_from(answer="x", feedback=[said("rating", value=0.25)])) == 0.25
    assert isinstance(rating(judges.trace_from(answer="x")), judges.Abstain)
    assert isinstance(
        rating(judges.trace_from(answer="x", feedback=[said("rating", value=5)])), judges.Abstain
    )


def test_who_asks_the_same_again_was_not_answered():
    first = asked("How do I reset my password?", seconds_ago=60)
    assert retried(first, [asked("how do I reset my  password??", name="u")]) is False
    assert retried(first, [asked("Thanks! And where is my invoice?", name="u")]) is True
    assert retried(first, [asked("How do I reset my password?", name="u")], within_s=30) is True
    assert isinstance(retried(first, []), judges.Abstain)
    assert isinstance(retried(asked(""), [asked("x")]), judges.Abstain)


def test_a_session_that_ends_without_a_word_is_abandoned():
    first, last = asked("a", seconds_ago=9000), asked("b", seconds_ago=4000, name="u")
    assert abandoned(first, [first], [last]) is True
    assert abandoned(last, [first, last], []) is False
    assert isinstance(abandoned(last, [first, last], [], idle_s=5000), judges.Abstain)
    assert isinstance(abandoned(last, [last], []), judges.Abstain)
    told = asked("b", seconds_ago=4000, feedback=[said("outcome", text="accepted")])
    assert isinstance(abandoned(told, [first, told], []), judges.Abstain)
