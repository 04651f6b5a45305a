"""What people and apps did with an answer, as labels: the share they kept, accepted or not, their rating."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from rapidfuzz.distance import Levenshtein

from judges.builtin.shown import answer_of
from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

MAX_EDIT_CHARS = 20_000  # the distance of two texts takes time by the product of their lengths
Score = Annotated[float, Meta(ge=0, le=1)]
OUTCOMES = {"accepted": 1.0, "rejected": 0.0}


def edited(trace: JudgedTrace) -> float | Abstain:
    """1 minus the share of the answer that was changed before it was kept: put in, left out or replaced."""
    kept = trace.kept
    if kept is None:
        return abstain("nobody said what was kept")
    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    if max(len(answer), len(kept)) > MAX_EDIT_CHARS:
        return abstain(f"the answer, or what was kept, is longer than {MAX_EDIT_CHARS:,} characters")
    return float(Levenshtein.normalized_similarity(answer, kept))


def accepted(trace: JudgedTrace, *, edited_score: Score = 0.5) -> float | Abstain:
    """1 where the answer was accepted, 0 where it was rejected, *edited_score* where it was edited."""
    said = next((entry.text for entry in reversed(trace.feedback) if entry.kind == "outcome"), None)
    if said == "edited":
        return edited_score
    if said in OUTCOMES:
        return OUTCOMES[said]
    return abstain(
        "nobody said whether it was accepted" if said is None else "the outcome is not a known one"
    )


def rating(trace: JudgedTrace) -> float | Abstain:
    """The rating that was given, 0 to 1."""
    given = next((entry.value for entry in reversed(trace.feedback) if entry.kind == "rating"), None)
    if given is None:
        return abstain("nobody rated the answer")
    return given if 0 <= given <= 1 else abstain("the rating is not between 0 and 1")
