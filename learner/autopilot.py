"""Learns and rolls out by itself: starts runs when enough was judged, and rollouts of what came of them.

One run at a time, in a process of its own. Every decision, refusals included, is in STATE/autopilot.jsonl.
It remembers on disk, so that a crash neither loses a run (which goes on from its checkpoint) nor repeats a
decision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.config.types import Config, LearnerConfig, RolloutPolicy
from gateway.errors import TracetuneError
from gateway.paths import paths_of
from learner.autopilot_log import AutopilotLog, Line
from learner.errors import LearnerRefusedError
from learner.evaluation import ALL, PairReport
from learner.read import CHAT
from learner.registry import load_snapshot
from learner.rollout.control import Control, running
from learner.runs import at_work, list_runs, unfinished_run
from learner.standing import gating_standing, training_standing, waits_for
from learner.training_child import TrainingChild
from learner.types import SnapshotManifest

if TYPE_CHECKING:
    from gateway.traces.store import Store
    from judges.standing import Standing

LOOK_EVERY_S = 5.0  # between two looks at the store for each route
RETRY_AFTER_S = 60.0  # a run that failed or was refused is not repeated sooner

log = logging.getLogger(__name__)

_NEW_JUDGED = """
SELECT count() AS n, max(started_at) AS newest FROM traces
WHERE route = {route:String} AND endpoint = {endpoint:String} AND started_at > {since:DateTime64(6, 'UTC')}
  AND training
  AND trace_id IN (SELECT trace_id FROM judgments
                   WHERE judge = {judge:String} AND version = {version:String} AND score IS NOT NULL)
"""
_EVENTS = "SELECT count() AS n FROM rollouts WHERE route = {route:String} AND snapshot = {snapshot:String}"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

Start = Callable[[str, str, str], None]  # (route, snapshot, why): start a rollout, or raise TracetuneError


class Autopilot:
    """Drive it with `tick`; `stop` ends a run at its checkpoint."""

    def __init__(self, config_path: Path, state: Path) -> None:
        self._config_path = config_path
        self._state = state
        self._log = AutopilotLog(state)
        self._child: TrainingChild | None = None
        self._look_again: dict[str, datetime] = {}

    def tick(self, config: Config, store: Store, control: Control, start: Start, now: datetime) -> None:
        """Look at every route that learns, and do the next thing. Raises StoreError or OperationError."""
        self._reap(now)
        busy = {entry.route for entry in running(control) if entry.rollout is not None}
        for entry in config.learner:
            waits = now < self._look_again.get(entry.route, now)
            if not entry.automatic or entry.route in busy or waits:
                continue
            self._look_again[entry.route] = now + timedelta(seconds=LOOK_EVERY_S)
            snapshot = self._untried(config, entry, store)
            if snapshot is not None:
                self._roll_out(config, store, snapshot, start, now)
            elif self._child is None:
                self._learn(config, entry, store, now)

    def stop(self) -> None:
        """End a run under way; it goes on from its checkpoint after the next start."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    @property
    def learning(self) -> str | None:
        """The route whose run is under way."""
        return self._child.route if self._child is not None else None

    def _reap(self, now: datetime) -> None:
        child = self._child
        if child is None or child.poll() is None:
            return
        self._child = None
        action = {0: "finished", LearnerRefusedError.exit_code: "refused"}.get(child.poll() or 0, "failed")
        self._say(child.route, action, child.last_words(), now)
        if action != "finished":
            self._look_again[child.route] = now + timedelta(seconds=RETRY_AFTER_S)

    def _learn(self, config: Config, entry: LearnerConfig, store: Store, now: datetime) -> None:
        """Start or resume a run of the route when it is time for one."""
        runs = paths_of(config).runs
        if at_work(runs, entry.route):
            return  # a person's own `learn run`
        unfinished = unfinished_run(runs, entry)
        if unfinished is not None:
            # What is trained already may be evaluated whatever became of the judge.
            if unfinished.stage == "train" and self._waits(
                entry, training_standing(config, entry, store), now
            ):
                return
            reason = f"run {unfinished.run} was interrupted at stage {unfinished.stage}"
            self._start_child(entry.route, "resume", reason, now)
            return
        mark = self._log.mark(entry.route)
        if mark.learned_at is not None and now < mark.learned_at + timedelta(seconds=entry.cool_down_s):
            return
        standing = training_standing(config, entry, store)
        if self._waits(entry, standing, now):
            return
        row = store.query(
            _NEW_JUDGED,
            {
                "route": entry.route,
                "endpoint": CHAT,
                "since": mark.since or _EPOCH,
                "judge": entry.judge,
                "version": standing.version,
            },
        )[0]
        if row["n"] < entry.dataset.min_traces:
            return
        self._log.set_mark(entry.route, msgspec.structs.replace(mark, since=row["newest"], learned_at=now))
        self._start_child(entry.route, "learn", f"{row['n']} new judged traces", now)

    def _waits(self, entry: LearnerConfig, standing: Standing, now: datetime) -> bool:
        """Whether the route's judge may not train, which is said once."""
        if not standing.may("train"):
            self._say(entry.route, "wait", waits_for(standing, "train"), now)
        return not standing.may("train")

    def _start_child(self, route: str, action: str, reason: str, now: datetime) -> None:
        self._say(route, action, reason, now)
        self._child = TrainingChild.start(self._config_path, route, self._state / "autopilot-run.log")

    def _untried(self, config: Config, entry: LearnerConfig, store: Store) -> SnapshotManifest | None:
        """The snapshot of the route's newest run, unless it was dealt with or has met traffic."""
        runs = list_runs(paths_of(config).runs, entry.route)
        newest = runs[-1] if runs else None
        if newest is None or newest.stage != "done" or newest.snapshot is None:
            return None
        if newest.snapshot in self._log.mark(entry.route).handled:
            return None
        if store.query(_EVENTS, {"route": entry.route, "snapshot": newest.snapshot})[0]["n"]:
            self._handled(entry.route, newest.snapshot)
            return None
        return load_snapshot(paths_of(config).snapshots, newest.snapshot)

    def _roll_out(
        self, config: Config, store: Store, manifest: SnapshotManifest, start: Start, now: datetime
    ) -> None:
        """Start the rollout of a new snapshot that its evaluation speaks for, where autonomy lets us."""
        route = config.route(manifest.route)
        assert route is not None, "gateway.config.check saw to it"
        passes, reason = gate(manifest, route.rollout)
        if not passes:
            self._say(route.model, "skip", reason, now, manifest.snapshot)
            self._handled(route.model, manifest.snapshot)
            return
        standing = gating_standing(config, route, store)
        if not standing.may("gate"):
            # Not dealt with: labels, or a word in the configuration, may let it through.
            self._say(route.model, "wait", waits_for(standing, "gate"), now, manifest.snapshot)
            return
        if route.rollout.autonomy == "observe":
            self._say(route.model, "observe", f"would start a rollout: {reason}", now, manifest.snapshot)
            self._handled(route.model, manifest.snapshot)
            return
        try:
            start(route.model, manifest.snapshot, reason)
        except TracetuneError as error:
            # Not dealt with: a server that still loads, or a stable that answered too little, may come round.
            self._say(route.model, "refused", str(error), now, manifest.snapshot)
            return
        self._say(route.model, "start", reason, now, manifest.snapshot)
        self._handled(route.model, manifest.snapshot)

    def _handled(self, route: str, snapshot: str) -> None:
        mark = self._log.mark(route)
        self._log.set_mark(route, msgspec.structs.replace(mark, handled=[*mark.handled, snapshot]))

    def _say(self, route: str, action: str, reason: str, now: datetime, snapshot: str | None = None) -> None:
        if self._log.say(Line(at=now, route=route, action=action, reason=reason, snapshot=snapshot)):
            log.info("route %s: %s%s: %s", route, action, f" {snapshot}" if snapshot else "", reason)


def gate(manifest: SnapshotManifest, policy: RolloutPolicy) -> tuple[bool, str]:
    """Whether the held-out prompts speak against a rollout, and the numbers. Pure.

    Proof is the rollout's business; this keeps from users what is known to be worse by more than the margin.
    """
    # Of the judge that gates, where it is another than the one that trained.
    figures = manifest.evaluation.get("gate") or manifest.evaluation
    pairs = msgspec.convert(figures.get("pairs", []), list[PairReport])
    found = next((p.result.difference for p in pairs if (p.against, p.slice) == ("stable", ALL)), None)
    if found is None or found.n == 0:
        return True, "no held-out prompt was answered by stable; the canary alone will tell"
    numbers = (
        f"{found.value:+.3f} against stable on {found.n} held-out prompts "
        f"(95 % interval {found.low:+.3f} to {found.high:+.3f})"
    )
    if found.value < -policy.margins.quality:
        return False, f"{numbers} is worse than the margin of {policy.margins.quality:g} allows"
    return True, numbers
