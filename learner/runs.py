"""How far each learning run came: `paths.runs/RUN/run.json`, written whole at every stage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.config import LearnerConfig
from learner.errors import LearnerError
from learner.files import locked, read_json, slug, write_json
from learner.settings import frozen

Stage = Literal["train", "evaluate", "register", "done", "failed"]
STAGES: tuple[Stage, ...] = ("train", "evaluate", "register", "done", "failed")  # in order


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`. `section` is the learner section it was started with: another one starts another run."""

    run: str
    route: str
    dataset: str
    section: str
    stage: Stage
    started_at: datetime
    updated_at: datetime
    snapshot: str | None = None
    error: str | None = None


def unfinished_run(runs: Path, entry: LearnerConfig) -> Run | None:
    """The newest run of the route that was killed, if it was started with the same settings."""
    open_runs = [
        state
        for state in list_runs(runs, entry.route)
        if state.stage not in {"done", "failed"} and state.section == frozen(entry)
    ]
    return open_runs[-1] if open_runs else None


def run_lock(runs: Path, route: str) -> Path:
    """Held by whoever is at work on a run of *route*."""
    return runs / f".{slug(route)}.lock"


def at_work(runs: Path, route: str) -> bool:
    """Whether any process is at a run of *route* now, its own included."""
    lock = run_lock(runs, route)
    if not lock.is_file():
        return False
    try:
        with locked(lock, holder="a run is"):
            return False
    except LearnerError:
        return True


def list_runs(runs: Path, route: str | None = None) -> list[Run]:
    """Runs (of *route*), oldest first."""
    states = [read_json(path, Run) for path in runs.glob("[!.]*/run.json")]
    return sorted(
        (state for state in states if route is None or state.route == route),
        key=lambda state: state.started_at,
    )


def save_run(runs: Path, state: Run, **changes: Any) -> Run:
    """Write *state* with *changes*; returns what is on disk now."""
    changed = msgspec.structs.replace(state, updated_at=datetime.now(UTC), **changes)
    write_json(runs / state.run / "run.json", changed)
    return changed
