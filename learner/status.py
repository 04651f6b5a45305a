"""What each route that learns has, and what it waits for. Needs the store, never torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from gateway.config import Config, LearnerConfig
from gateway.paths import paths_of
from judges.errors import JudgeFileError
from learner.files import read_json
from learner.gap import Gap
from learner.read import count_judged, count_winners
from learner.refusal import last_refusal
from learner.registry import list_snapshots
from learner.rollout.state import Report, read_reports
from learner.runs import Run, at_work, list_runs
from learner.settings import MIN_EXAMPLES, learner_of
from learner.standing import gating_standing, training_standing, waits_for
from learner.states import EVENTS_SQL, Event, State, snapshot_states
from learner.types import Progress, SnapshotManifest

if TYPE_CHECKING:
    from gateway.traces.store import Store
    from judges.standing import Standing


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot of the route and what it is there now."""

    snapshot: str
    state: State


class RouteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One learning route. `line` is the sentence for people, `next` the command that moves it on, if any."""

    route: str
    judge: str
    judged: int
    needed: int
    run: Run | None  # the newest
    progress: Progress | None  # of a run that is not at its end
    snapshots: list[SnapshotState]
    line: str
    next: str | None
    notes: list[str] = []  # what has to be known of the judges behind it


# By state: what to say of the newest snapshot in it, and the command that looks further.
_WORDS: dict[State, tuple[str, str | None]] = {
    "canary": ("takes a canary share", "tracetune rollout status --route {route}"),
    "stable": ("is stable", None),
    "candidate": ("waits for a rollout", "tracetune rollout start --route {route} --snapshot {snapshot}"),
}


def route_status(config: Config, store: Store) -> list[RouteStatus]:
    """The status of every route that learns, in the order of the configuration."""
    return [_status(config, entry.route, store) for entry in config.learner]


def _status(config: Config, route: str, store: Store) -> RouteStatus:
    entry = learner_of(config, route)
    paths = paths_of(config)
    runs = list_runs(paths.runs, route)
    run = runs[-1] if runs else None
    progress = None
    if run is not None and run.stage in {"train", "evaluate"}:
        path = paths.runs / run.run / "progress.json"
        progress = read_json(path, Progress) if path.is_file() else None
    manifests = list_snapshots(paths.snapshots, route)
    ids = [manifest.snapshot for manifest in manifests]
    events = [msgspec.convert(row, Event) for row in store.query(EVENTS_SQL)]
    states = snapshot_states(ids, [event for event in events if event.route == route])
    judged = count_judged(config, entry, store)
    trains, gates = training_standing(config, entry, store), _gates(config, route, store)
    snapshots = [SnapshotState(snapshot=name, state=states[name]) for name in ids]
    newest = next((state for state in reversed(snapshots) if state.state in _WORDS), None)
    untrained = run.stage == "train" if run is not None and run.stage != "done" else newest is None
    if at_work(paths.runs, route):
        line, following = _learning(run, progress), None
    elif untrained and not trains.may("train"):
        line, following = waits_for(trains, "train"), _calibrate(trains)
    elif run is not None and run.stage != "done":
        line = f"the last run failed: {run.error}" if run.stage == "failed" else _learning(run, progress)
        following = f"tracetune learn run --route {route}"
    elif newest is None:
        line, following = _before_a_run(config, entry, judged, store)
    elif newest.state == "candidate" and gates is not None and not gates.may("gate"):
        line, following = f"{newest.snapshot} {waits_for(gates, 'gate')}", _calibrate(gates)
    else:
        line, following = _of_snapshot(route, newest)
    return RouteStatus(
        route=route,
        judge=entry.judge,
        judged=judged,
        needed=entry.dataset.min_traces,
        run=run,
        progress=progress,
        snapshots=snapshots,
        line=line,
        next=following,
        notes=[*_of_judges(trains, gates), *_signs(manifests, newest, read_reports(paths.state).get(route))],
    )


def _gates(config: Config, route: str, store: Store) -> Standing | None:
    """None where the gating judge's file cannot be read, which is told elsewhere."""
    configured = config.route(route)
    assert configured is not None, "gateway.config.check saw to it"
    try:
        return gating_standing(config, configured, store)
    except JudgeFileError:
        return None


def _of_judges(trains: Standing, gates: Standing | None) -> list[str]:
    """What is to be said of both judges, once where it is the same."""
    said = [trains.note("train"), gates.note("gate") if gates is not None else None]
    return list(dict.fromkeys(line for line in said if line is not None))


def _signs(
    manifests: Sequence[SnapshotManifest], newest: SnapshotState | None, report: Report | None
) -> list[str]:
    """Of reward hacking: in the newest snapshot's evaluation, and in the route's last rollout."""
    found = []
    for manifest in manifests:
        gate = manifest.evaluation.get("gate") or {}
        if newest is not None and manifest.snapshot == newest.snapshot and gate.get("gap"):
            found.append((f"{manifest.snapshot} on held-out prompts", msgspec.convert(gate["gap"], Gap)))
    if report is not None and report.gap is not None:
        found.append((f"{report.snapshot} in its rollout", report.gap))
    return [f"{where}: {gap.sign}" for where, gap in found if gap.sign is not None]


def _calibrate(standing: Standing) -> str:
    return f"tracetune judge calibrate {standing.judge}"


def _learning(run: Run | None, progress: Progress | None) -> str:
    if run is None or run.stage in {"done", "failed"}:
        return "learning: dataset"  # a run begins once that is built
    at = f", {progress.stage} {progress.done} of {progress.total}" if progress else ""
    return f"learning: {run.stage}{at}"


def _of_snapshot(route: str, newest: SnapshotState) -> tuple[str, str | None]:
    words, command = _WORDS[newest.state]
    return f"{newest.snapshot} {words}", command and command.format(route=route, snapshot=newest.snapshot)


def _before_a_run(config: Config, entry: LearnerConfig, judged: int, store: Store) -> tuple[str, str | None]:
    """What a route without a snapshot waits for, as `learn run` would say it where that can be told."""
    needed = entry.dataset.min_traces
    if judged < needed:
        return f"{judged} of {needed} judged traces", "tracetune judge list"
    refused = last_refusal(paths_of(config).runs, entry, judged)
    if refused is not None:
        return f"{judged} judged traces, not enough to learn from: {refused}", "tracetune judge list"
    winners = count_winners(config, entry, store)
    if winners < MIN_EXAMPLES:
        bar = f"(score at least {entry.dataset.min_score:g})"
        line = f"{winners} of {MIN_EXAMPLES} different winners {bar} among {judged} judged traces"
        return line, "tracetune judge list"
    return (
        f"{judged} judged traces, {needed} needed: ready to learn",
        f"tracetune learn run --route {entry.route}",
    )
