"""What the controller leaves for people to read: last decisions, and promotions that wait for a person."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from learner.errors import LearnerError
from learner.files import read_json, write_json
from learner.gap import Gap
from learner.rollout.decision import Decision

PROPOSALS = "proposals.json"
REPORTS = "rollouts.json"

T = TypeVar("T")


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A promotion that the evidence allows and `autonomy: ask` holds until a person accepts it."""

    route: str
    rollout: str
    snapshot: str
    at: datetime
    why: str
    evidence: dict[str, Any]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller last made of one rollout.

    `action` is what it did: "promoted", "rolled back", "raised", "concluded", "proposed", "observed" (it
    would have acted), "waiting", "stale" (someone else decided first) or "blind" (no evidence to be had,
    `error` says why; the ramp waits).
    """

    route: str
    rollout: str
    snapshot: str
    at: datetime
    share: float
    action: str
    decision: Decision | None
    error: str | None = None
    gap: Gap | None = None  # between the judge that trains and the one that gates, where they differ


def read_proposals(state: Path) -> dict[str, Proposal]:
    """Held promotions by route."""
    return _read(state / PROPOSALS, dict[str, Proposal])


def write_proposals(state: Path, proposals: dict[str, Proposal]) -> None:
    """Replace the held promotions. Does nothing when they are these already."""
    if proposals != read_proposals(state):
        write_json(state / PROPOSALS, proposals)


def read_reports(state: Path) -> dict[str, Report]:
    """The last report by route; of a route without a rollout, on the last one it had."""
    return _read(state / REPORTS, dict[str, Report])


def write_reports(state: Path, reports: dict[str, Report]) -> None:
    """Replace the reports; those of routes that are not among them stay."""
    if reports:
        write_json(state / REPORTS, {**read_reports(state), **reports})


def _read(path: Path, kind: type[dict[str, T]]) -> dict[str, T]:
    if not path.exists():
        return {}
    try:
        return read_json(path, kind)
    except LearnerError:
        # Written by another version, and made anew at the next step: nothing of it is needed to decide.
        return {}
