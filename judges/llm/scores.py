"""What answers come to: a score, or an abstention that says why. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from judges.llm.detail import CriterionDetail, MemberDetail, OrderDetail
from judges.llm.rubric import Rubric, weighted

BETTER, EQUAL, WORSE = 1.0, 0.5, 0.0


class Scored(NamedTuple):
    """A score in [0, 1], or None for *reason*."""

    score: float | None
    reason: str = ""


def rubric_score(rubric: Rubric, answers: Sequence[CriterionDetail]) -> Scored:
    """The weighted share of criteria met; an abstention that names each that was not answered."""
    open_ones = [f"{answer.name} ({answer.answer})" for answer in answers if answer.met is None]
    if open_ones:
        return Scored(None, f"no answer to {', '.join(open_ones)}")
    return Scored(weighted({answer.name: bool(answer.met) for answer in answers}, rubric))


def jury_score(rubric: Rubric, members: Sequence[MemberDetail]) -> Scored:
    """The mean over members that answered: at least half of them, with a majority on every criterion."""
    answered = [member for member in members if member.score is not None]
    if not answered or 2 * len(answered) < len(members):
        return Scored(None, f"only {len(answered)} of {len(members)} members answered")
    for place, criterion in enumerate(rubric.criteria):
        met = sum(bool(member.criteria[place].met) for member in answered)
        if 2 * met == len(answered):
            return Scored(None, f"members split evenly on {criterion.name}: {met} to {met}")
    return Scored(sum(member.score or 0.0 for member in answered) / len(answered))


def pair_score(orders: Sequence[OrderDetail]) -> Scored:
    """What both orders agree on; where they do not, which place is preferred."""
    one, other = orders
    if one.better is None or other.better is None:
        return Scored(None, "no answer in one of the two orders (off the menu)")
    if one.better == other.better:
        return Scored({"answer": BETTER, "tie": EQUAL, "other": WORSE}[one.better])
    firsts = [order.better == order.first for order in orders if order.better != "tie"]
    if len(firsts) < len(orders):
        return Scored(None, "a tie in one order and not in the other: order-inconsistent")
    return Scored(None, f"prefers the {'first' if firsts[0] else 'second'} place: order-inconsistent")


def cosine(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Of two vectors of one length, in [-1, 1]; None where one has no direction, or is not finite."""
    lengths = math.hypot(*one) * math.hypot(*other)
    if not lengths or not math.isfinite(lengths):
        return None
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(one, other, strict=True)) / lengths))


def nearness(cosine: float, threshold: float | None) -> float:
    """A cosine as a score: from -1 → 0 to 1 → 1, or whether it reaches *threshold*."""
    return (cosine + 1) / 2 if threshold is None else float(cosine >= threshold)
