"""What the session did after an answer, as labels: asked the same again, or left."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import Meta
from rapidfuzz.distance import Indel

from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

MAX_QUESTION_CHARS = 5_000  # of two questions; longer ones differ in what lies before
Share = Annotated[float, Meta(gt=0, le=1)]
AboveZero = Annotated[float, Meta(gt=0)]


def retried(
    trace: JudgedTrace, later: list[JudgedTrace], *, alike: Share = 0.8, within_s: AboveZero = 300
) -> bool | Abstain:
    """False where the next turn asks nearly the same question within *within_s*; True where it goes on.

    *alike* is the share of two questions, without case and space, from which they are nearly the same.
    """
    if not later:
        return abstain("the last turn of its session so far")
    asked, again = _question(trace), _question(later[0])
    if not asked or not again:
        return abstain("a turn has no question of a user")
    if _seconds(trace, later[0]) > within_s:
        return True
    return float(Indel.normalized_similarity(asked, again)) < alike


def abandoned(
    trace: JudgedTrace, session: list[JudgedTrace], later: list[JudgedTrace], *, idle_s: AboveZero = 600
) -> bool | Abstain:
    """False where the session ended with this answer and nobody said a word of it; True where it went on.

    A session ends when nothing comes for *idle_s*. One of a single turn says nothing: most are such.
    """
    if later:
        return True
    if len(session) < 2:
        return abstain("a session of one turn")
    if trace.feedback:
        return abstain("the last turn, and somebody said what became of it")
    if (datetime.now(UTC) - _utc(trace.started_at)).total_seconds() <= idle_s:
        return abstain(f"the last turn, less than {idle_s:g} s ago")
    return False


def _question(trace: JudgedTrace) -> str:
    return " ".join(trace.prompt[:MAX_QUESTION_CHARS].casefold().split())


def _seconds(first: JudgedTrace, second: JudgedTrace) -> float:
    return (_utc(second.started_at) - _utc(first.started_at)).total_seconds()


def _utc(moment: Any) -> datetime:
    """Moments of the store may come without their zone; they are of UTC."""
    at: datetime = moment
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
