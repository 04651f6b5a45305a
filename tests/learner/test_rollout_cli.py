"""`tracetune rollout` against a real gateway and a real store: what it shows, does and refuses."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import timedelta

import msgspec
import pytest
from click.testing import CliRunner, Result

from gateway.config import load_config
from gateway.control.client import ControlClient
from gateway.errors import UsageError
from gateway.traces.store import Store
from learner.cli.rollout import rollout
from learner.errors import LearnerRefusedError
from learner.rollout.controller import step
from tests.learner.rollout.support import frozen
from tests.learner.rollout.world import NOW, World
from tests.support.control_gateway import REPOSITORY, running
from tests.support.standing import calibrate
from tests.support.store import empty, started_store

YAML = """
listen: {{host: 127.0.0.1, port: {port}}}
store: {{url: "embedded:./data"}}
upstreams:
  - {{name: frontier, base_url: "http://127.0.0.1:9/v1"}}
  - {{name: local, base_url: "http://127.0.0.1:9/v1", price_per_hour: 1}}
routes:
  - model: support
    variants: [{{name: stable, upstream: frontier, model: big}}]
judges: [{{name: resolved, path: "judge.py:resolved"}}]
learner: [{{route: support, base_model: ./model, serve_on: local, judge: resolved}}]
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rollout-cli")
    (directory / "judge.py").write_text("def resolved(trace):\n    return True\n")
    for started in running(directory, YAML):
        with started_store(started.config_path):
            yield started


class Terminal:
    def __init__(self, gateway, store) -> None:
        self.gateway, self.store = gateway, store
        self.config = load_config(gateway.config_path)
        self.control = ControlClient(self.config, {})

    def __call__(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(
            rollout, [command, "--config", str(self.gateway.config_path), *arguments], env={"COLUMNS": "160"}
        )

    def start(self, quality=(0.8, 0.8), sessions=200, **policy):
        """Start a rollout at one half over the API, with traffic in the store."""
        frozen_policy = frozen(window_s=1, settle_s=1, latency_budget_s=2, **policy)
        body = {
            "route": "support",
            "snapshot": "snap-1",
            "upstream": "local",
            "share": 0.5,
            "policy": msgspec.to_builtins(frozen_policy),
            "why": "a test",
        }
        started = self.control.start_rollout(body)["rollout"]
        rng, world = random.Random(1), World(self.store, started, frozen_policy)
        for i in range(sessions):
            candidate = rng.random() < 0.5
            world.trace(
                f"s{i}",
                "candidate" if candidate else "stable",
                after_s=i,
                score=float(rng.random() < quality[candidate]),
                propensity=0.5,
                cost_usd=0.0001 if candidate else 0.001,
            )
        world.write()
        return started

    @property
    def running(self):
        return self.control.rollouts("support")["rollouts"][0]["rollout"]

    @property
    def stable(self):
        (route,) = self.control.routes()["routes"]
        return next(variant["name"] for variant in route["variants"] if variant["stable"])


@pytest.fixture
def tracetune(gateway):
    config = load_config(gateway.config_path)
    with Store.connect(config, {}) as store:
        empty(store)
        terminal = Terminal(gateway, store)
        yield terminal
        (view,) = terminal.control.rollouts("support")["rollouts"]
        if view["rollout"] is not None or terminal.stable != "stable":
            terminal.control.roll_back({"route": "support", "version": view["version"], "why": "clean"})


def test_status_shows_estimates_e_values_and_what_is_missing(tracetune):
    tracetune.start()
    shown = tracetune("status")

    assert shown.exit_code == 0, shown.output
    for part in (
        "snap-1 at 0.5",
        "quality (score)",
        "quality is less than 0.1 below stable's",
        "missing: proof",
    ):
        assert part in shown.stdout
    (entry,) = json.loads(tracetune("status", "--json").stdout)["rollouts"]
    assert entry["rollout"]["snapshot"] == "snap-1"
    assert entry["decision"]["units_candidate"] + entry["decision"]["units_stable"] == 200
    assert {estimate["name"] for estimate in entry["estimates"]} == {"quality", "success", "latency", "cost"}
    assert all(measure["threshold"] > 1 for measure in entry["decision"]["measures"])


def test_a_promotion_without_evidence_is_refused_with_the_numbers_and_can_be_overridden(tracetune):
    tracetune.start(sessions=60)
    command = [sys.executable, "-m", "gateway.cli.root", "rollout", "promote", "--config"]
    refused = subprocess.run(
        [*command, tracetune.gateway.config_path],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        env={**os.environ},
        check=False,
    )

    assert refused.returncode == 3
    assert refused.stderr.startswith("tracetune: refused: ")
    assert "of 20" in refused.stderr
    assert isinstance(tracetune("promote").exception, LearnerRefusedError)
    assert tracetune.stable == "stable"
    assert tracetune("promote", "--override", "the board wants it").exit_code == 0
    assert tracetune.stable == "snap-1"


def test_a_promotion_that_the_evidence_allows_is_done_and_can_be_undone(tracetune):
    tracetune.start(quality=(0.8, 0.95), sessions=500)
    done = tracetune("promote", "--route", "support")

    assert done.exit_code == 0, done.output
    assert tracetune.stable == "snap-1"
    assert tracetune("rollback", "--why", "second thoughts").exit_code == 0
    assert tracetune.stable == "stable"


def test_pause_weight_and_resume_reach_the_gateway(tracetune):
    tracetune.start(sessions=10)

    assert tracetune("pause", "--why", "holiday").exit_code == 0
    assert tracetune.running["paused"] is True
    assert tracetune("weight", "0.25").exit_code == 0
    assert tracetune.running["share"] == 0.25
    assert tracetune("resume").exit_code == 0
    assert tracetune.running["paused"] is False
    assert tracetune("weight", "1.5").exit_code == 2


def test_the_controller_decides_through_the_api(tracetune):
    tracetune.start(quality=(0.8, 0.2), sessions=100)
    (report,) = step(tracetune.config, tracetune.store, tracetune.control, lambda: NOW + timedelta(hours=1))

    assert report.action == "rolled back"
    assert tracetune.running is None
    assert "rolled back" in tracetune("status").stdout


def test_commands_without_a_rollout_or_a_route_say_so(tracetune):
    assert isinstance(tracetune("pause").exception, UsageError)
    assert "is in no rollout" in str(tracetune("promote").exception)
    assert "routes: support" in str(tracetune("status", "--route", "nobody").exception)


def test_status_says_who_ended_a_rollout_by_hand_and_no_longer_that_it_waits(tracetune):
    started = tracetune.start(sessions=20)
    (report,) = step(tracetune.config, tracetune.store, tracetune.control, lambda: NOW)
    assert report.action == "waiting"
    assert tracetune("rollback", "--why", "second thoughts").exit_code == 0
    shown = tracetune("status").stdout
    assert "support: snap-1 ended since at " in shown
    assert report.decision.why not in shown
    event = {
        "rollout": started,
        "route": "support",
        "version": 99,
        "event": "rolled_back",
        "snapshot": "snap-1",
        "at": NOW,
        "who": "ann",
        "why": "second thoughts",
        "evidence": "{}",
    }
    tracetune.store.insert("rollouts", [event], token="by-hand")
    shown = tracetune("status").stdout
    assert shown.startswith("support: snap-1 rolled back at ")
    assert shown.endswith(": second thoughts (by ann)\n")


def test_status_says_on_whose_word_the_evidence_stands_and_promote_refuses_without_it(tracetune):
    tracetune.start(quality=(0.5, 0.95), sessions=1500)
    uncalibrated = "judge 'resolved' is uncalibrated; tracetune judge calibrate resolved"
    assert uncalibrated in tracetune("status").stdout
    calibrate(tracetune.store, "resolved", "v1", j=0.6, j_low=0.5)

    refusal = "judge 'resolved' (v1) may not gate: J 0.60 on 100 labels, lower limit 0.50, under 0.6 to gate"
    assert refusal in tracetune("status").stdout.replace("\n", " ")
    (entry,) = json.loads(tracetune("status", "--json").stdout)["rollouts"]
    assert (entry["judge"]["may_gate"], entry["gap"]) == (False, None)
    assert entry["notes"][0].startswith(refusal)
    refused = tracetune("promote").exception
    assert isinstance(refused, LearnerRefusedError)
    assert str(refused).startswith(f"refused: {refusal}")
    assert str(refused).endswith("--override REASON promotes all the same")
    assert tracetune.stable == "stable"

    calibrate(tracetune.store, "resolved", "v1", j=0.9, j_low=0.8)
    assert "judge 'resolved'" not in tracetune("status").stdout
    assert tracetune("promote").exit_code == 0
    assert tracetune.stable == "snap-1"
