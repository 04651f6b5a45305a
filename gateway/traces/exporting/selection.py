"""Which traces are meant, and why each of the others is not. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

ENDED_BY_ITSELF = frozenset({"stop", "tool_calls", "function_call"})

# Reasons, as they are counted and told.
OTHER_OUTCOME = "the answer failed (--outcome takes it)"
CUT_SHORT = "the answer did not end by itself (--incomplete takes it)"
WITHHELD = "kept out of training by its client"
NOT_JUDGED = "not judged"
ABSTAINED = "the judge abstained"
OTHER_SCORE = "the score is another one"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace has to be. None and empty: anything. `since` is inclusive, `until` exclusive, both UTC.

    `complete`: of the outcome ok, answers that did not end by themselves are left out. `withheld`: with the
    traces that their clients keep out of training. Scores are those
    of the last judgment by `judge`, of whatever version; without a judge no score is looked at. `limit`
    counts what is exported, from the newest trace on.
    """

    route: str | None = None
    variant: str | None = None
    session: str | None = None
    tags: dict[str, str] = {}
    since: datetime | None = None
    until: datetime | None = None
    outcomes: tuple[str, ...] = ("ok",)
    complete: bool = True
    withheld: bool = False
    judge: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    limit: int | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition that the store can decide by its columns, and its parameters."""
        conditions = ["1"]
        parameters: dict[str, Any] = {}
        for name, value in (("route", self.route), ("variant", self.variant), ("session", self.session)):
            if value is not None:
                conditions.append(f"{name} = {{{name}:String}}")
                parameters[name] = value
        for name, operator, moment in (("since", ">=", self.since), ("until", "<", self.until)):
            if moment is not None:
                conditions.append(f"started_at {operator} {{{name}:DateTime64(6, 'UTC')}}")
                parameters[name] = moment
        for number, (tag, value) in enumerate(self.tags.items()):
            conditions.append(f"tags[{{tag{number}:String}}] = {{value{number}:String}}")
            parameters |= {f"tag{number}": tag, f"value{number}": value}
        return " AND ".join(conditions), parameters


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a trace before its bodies are read. `score` None: abstained, or not judged."""

    trace_id: str
    started_at: datetime
    outcome: str
    finish_reason: str | None
    withheld: bool = False  # it, or another trace of its session, is kept out of training
    judged: bool = False
    score: float | None = None


def why_not(found: Found, selection: Selection) -> str | None:
    """Why *found* is left out; None if it is not."""
    if selection.outcomes and found.outcome not in selection.outcomes:
        return OTHER_OUTCOME
    if selection.complete and found.outcome == "ok" and found.finish_reason not in ENDED_BY_ITSELF:
        return CUT_SHORT
    if found.withheld and not selection.withheld:
        return WITHHELD
    return None if selection.judge is None else _why_not_by_score(found, selection)


def _why_not_by_score(found: Found, selection: Selection) -> str | None:
    if not found.judged:
        return NOT_JUDGED
    if found.score is None:
        return ABSTAINED
    low = -1.0 if selection.min_score is None else selection.min_score
    high = 2.0 if selection.max_score is None else selection.max_score
    return None if low <= found.score <= high else OTHER_SCORE
