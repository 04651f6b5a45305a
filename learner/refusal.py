"""Why a route's last attempt at a dataset was refused, kept so that `status` need not build one to know."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from gateway.config import LearnerConfig
from learner.errors import LearnerError
from learner.files import read_json, slug, write_json
from learner.settings import frozen


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """It holds while the learner section and the number of judged traces are these."""

    section: str
    judged: int
    why: str


def save_refusal(runs: Path, entry: LearnerConfig, judged: int, why: str) -> None:
    """Keep it. A disk that refuses loses a hint of `status` and nothing else."""
    with contextlib.suppress(LearnerError):
        write_json(_path(runs, entry), Refusal(section=frozen(entry), judged=judged, why=why))


def forget_refusal(runs: Path, entry: LearnerConfig) -> None:
    """There is enough to learn from now."""
    _path(runs, entry).unlink(missing_ok=True)


def last_refusal(runs: Path, entry: LearnerConfig, judged: int) -> str | None:
    """Why learning would be refused now, as far as the last attempt can tell."""
    try:
        refusal = read_json(_path(runs, entry), Refusal)
    except LearnerError:  # there is none, or another version wrote it
        return None
    return refusal.why if (refusal.section, refusal.judged) == (frozen(entry), judged) else None


def _path(runs: Path, entry: LearnerConfig) -> Path:
    return runs / f".{slug(entry.route)}.refused.json"
