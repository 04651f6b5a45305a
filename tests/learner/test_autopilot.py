"""The autopilot learns when enough was judged, rolls out what its evaluation speaks for, and repeats nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from gateway.config import load_config
from gateway.paths import paths_of
from gateway.traces.types import Judgment, RolloutEvent
from judges.load import read_source
from learner.autopilot import LOOK_EVERY_S, RETRY_AFTER_S, Autopilot, gate
from learner.autopilot_log import MAX_LINES, AutopilotLog, Line, read_lines
from learner.errors import LearnerRefusedError
from learner.files import write_json
from learner.runs import Run, save_run
from learner.settings import frozen
from learner.types import SnapshotManifest
from tests.support.store import a_trace

NOW = datetime(2026, 11, 20, tzinfo=UTC)
YAML = """
store: {url: "embedded:./data"}
upstreams: [{name: up, base_url: "http://127.0.0.1:9/v1", default: true}]
routes:
  - model: bot
    variants: [{name: stable, upstream: up, model: m}]
    rollout: {autonomy: AUTONOMY, margins: {quality: 0.1}}
judges: [{name: good, path: "judge.py:good"}]
learner: [{route: bot, base_model: ./no-such-model, serve_on: up, judge: good, cool_down_s: 60,
           dataset: {min_traces: 10}}]
"""


class Gateway:
    """The control API of a gateway whose route is in a rollout or not."""

    rollout: dict | None = None

    def rollouts(self, route=None):  # noqa: ARG002 -- the protocol has it
        return {"rollouts": [{"route": "bot", "version": 1, "rollout": self.rollout}]}


class Starts:
    """Takes the place of starting a rollout; refuses for the reason that is set."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.refusal: str | None = None

    def __call__(self, route: str, snapshot: str, why: str) -> None:  # noqa: ARG002 -- the protocol has it
        if self.refusal is not None:
            raise LearnerRefusedError(self.refusal)
        self.started.append((route, snapshot))


class Bench:
    def __init__(self, directory, store, autonomy="auto") -> None:
        self.path = directory / "tracetune.yaml"
        self.path.write_text(YAML.replace("AUTONOMY", autonomy))
        (directory / "judge.py").write_text("def good(trace):\n    return True\n")
        self.config = load_config(self.path)
        self.state = paths_of(self.config).state
        self.store, self.gateway, self.start = store, Gateway(), Starts()
        self.now = NOW
        self.pilot = Autopilot(self.path, self.state)

    def tick(self, after_s=LOOK_EVERY_S):
        self.now += timedelta(seconds=after_s)
        self.pilot.tick(self.config, self.store, self.gateway, self.start, self.now)

    def run_to_its_end(self):
        deadline = time.monotonic() + 60
        while self.pilot.learning and time.monotonic() < deadline:
            time.sleep(0.1)
            self.tick(0)

    def restart(self):
        self.pilot.stop()
        self.pilot = Autopilot(self.path, self.state)

    @property
    def said(self):
        return [line.action for line in read_lines(self.state)]

    def judged(self, count, after_s):
        version = read_source(self.config.judges[0].file, "good").version
        traces = [
            a_trace(route="bot", started_at=NOW + timedelta(seconds=after_s + i / 100)) for i in range(count)
        ]
        self.store.insert("traces", traces, token=f"{after_s}")
        judgments = [
            Judgment(
                trace_id=t.trace_id, judge="good", version=version, score=1.0, reason="", judged_at=self.now
            )
            for t in traces
        ]
        self.store.insert("judgments", judgments, token=f"j{after_s}")

    def finished_run(self, difference=0.0, n=100, stage="done"):
        paths, entry = paths_of(self.config), self.config.learner[0]
        pair = {
            "against": "stable",
            "slice": "all",
            "result": {
                "difference": {"value": difference, "low": -0.3, "high": 0.2, "n": n},
                "wins": 0,
                "losses": 0,
                "ties": n,
                "p_value": 1.0,
                "method": "newcombe-10",
            },
        }
        manifest = a_manifest({"pairs": [pair]})
        write_json(paths.snapshots / "bot-1" / "snapshot.json", manifest)
        run = Run(
            run="run-1",
            route="bot",
            dataset="d",
            section=frozen(entry),
            stage=stage,
            started_at=NOW,
            updated_at=NOW,
            snapshot="bot-1" if stage == "done" else None,
        )
        save_run(paths.runs, run)


def a_manifest(evaluation):
    return SnapshotManifest(
        snapshot="bot-1",
        route="bot",
        kind="adapter",
        files={},
        base_model="m",
        base_digest="",
        recipe=None,
        training=None,
        run="run-1",
        dataset="d",
        judges={},
        parents=[],
        evaluation=evaluation,
        created_at=NOW,
    )


@pytest.fixture
def bench(tmp_path, clean_store):
    made = Bench(tmp_path, clean_store)
    yield made
    made.pilot.stop()


def test_too_few_judged_traces_start_nothing(bench):
    bench.judged(9, 0)
    bench.tick()

    assert bench.pilot.learning is None
    assert bench.said == []


def test_enough_judged_traces_start_one_run_and_only_as_many_new_ones_another(bench):
    bench.judged(10, 0)
    bench.tick()
    assert bench.pilot.learning == "bot"
    bench.run_to_its_end()
    line = read_lines(bench.state)[-1]
    assert line.action == "failed"  # there is no such base model
    assert "no-such-model" in line.reason

    bench.restart()
    bench.judged(9, 100)
    bench.tick(RETRY_AFTER_S)
    assert bench.pilot.learning is None
    bench.judged(1, 200)
    bench.tick()
    assert bench.pilot.learning == "bot"
    assert bench.said == ["learn", "failed", "learn"]


def test_a_run_waits_for_the_cool_down_after_the_one_before_it_also_across_a_restart(bench):
    bench.judged(10, 0)
    bench.tick()
    bench.run_to_its_end()
    bench.judged(10, 20)
    bench.restart()
    bench.tick(30)
    assert bench.pilot.learning is None

    bench.tick(31)
    assert bench.pilot.learning == "bot"


def test_a_run_that_was_killed_is_resumed(bench):
    bench.finished_run(stage="train")
    bench.tick()

    assert bench.pilot.learning == "bot"
    assert bench.said == ["resume"]


def test_nothing_is_learnt_or_started_while_a_rollout_runs(bench):
    bench.gateway.rollout = {
        "rollout": "ro-1",
        "snapshot": "s",
        "candidate": "s",
        "share": 0.1,
        "stage": 0,
        "paused": False,
        "policy": {},
        "started_at": NOW.isoformat(),
    }
    bench.judged(50, 0)
    bench.finished_run()
    bench.tick()

    assert bench.said == []
    assert bench.start.started == []


def test_a_new_snapshot_starts_one_rollout_and_none_after_a_restart(bench):
    bench.finished_run()
    bench.tick()
    bench.tick()
    bench.restart()
    bench.tick()

    assert bench.start.started == [("bot", "bot-1")]
    assert bench.said == ["start"]


def test_a_snapshot_that_has_met_traffic_is_not_started_again(bench):
    bench.finished_run()
    event = RolloutEvent(
        rollout="ro-1",
        route="bot",
        version=1,
        event="rolled_back",
        snapshot="bot-1",
        at=NOW,
        who="",
        why="",
        evidence="{}",
    )
    bench.store.insert("rollouts", [event], token="e")
    bench.tick()

    assert bench.start.started == []


def test_a_snapshot_that_is_known_to_be_worse_is_skipped_with_the_numbers(bench):
    bench.finished_run(difference=-0.11)
    bench.tick()
    bench.tick()

    assert bench.start.started == []
    assert [line.action for line in read_lines(bench.state)] == ["skip"]
    assert "-0.110 against stable on 100" in read_lines(bench.state)[0].reason


def test_observe_only_tells(tmp_path, clean_store):
    bench = Bench(tmp_path, clean_store, autonomy="observe")
    bench.finished_run()
    bench.tick()
    bench.tick()

    assert bench.start.started == []
    assert bench.said == ["observe"]


def test_a_refused_start_is_tried_again_and_told_once(bench):
    bench.finished_run()
    bench.start.refusal = "refused: stable has answered 3 sessions"
    bench.tick()
    bench.tick()
    assert bench.said == ["refused"]
    bench.start.refusal = None
    bench.tick()

    assert bench.start.started == [("bot", "bot-1")]
    assert bench.said == ["refused", "start"]


def test_a_candidate_that_stable_cannot_be_compared_with_goes_to_the_canary(bench):
    passes, why = gate(a_manifest({}), bench.config.routes[0].rollout)

    assert passes
    assert "canary" in why


def test_the_log_is_bounded_and_keeps_the_newest(tmp_path):
    old = Line(at=NOW, route="r", action="skip", reason="0")
    path = tmp_path / "autopilot.jsonl"
    path.write_bytes(b"\n".join([msgspec.json.encode(old)] * (MAX_LINES + 10)) + b"\n")
    log = AutopilotLog(tmp_path)
    log.say(Line(at=NOW, route="r", action="skip", reason="new"))

    assert len(read_lines(tmp_path)) == MAX_LINES
    assert read_lines(tmp_path)[-1].reason == "new"
