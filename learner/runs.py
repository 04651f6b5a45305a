"""How far each learning run came: `paths.runs/RUN/run.json`, written whole at every stage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.config import LearnerConfig
from learner.files import read_json, write_json
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
