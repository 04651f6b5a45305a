"""Starting a rollout, and the learner process that decides it by itself: real gateway, store and processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from gateway.config import load_config
from gateway.control.client import ControlClient
from gateway.errors import RefusedError
from gateway.paths import paths_of
from gateway.traces.store import Store
from judges.load import read_source
from learner.base_model import base_model_digest
from learner.cli.rollout import rollout
from learner.errors import LearnerRefusedError
from learner.registry import register
from learner.rollout.policy import read_policy
from learner.rollout.state import read_reports
from learner.types import SnapshotManifest
from tests.learner.rollout.world import World
from tests.support.control_gateway import REPOSITORY, eventually, running
from tests.support.inference import adapter_files, base_model_files, inference_stub
from tests.support.standing import calibrate
from tests.support.store import empty, started_store

YAML = """
listen: {{{{host: 127.0.0.1, port: {{port}}}}}}
store: {{{{url: "embedded:./data"}}}}
upstreams:
  - {{{{name: frontier, base_url: "http://127.0.0.1:9/v1"}}}}
  - {{{{name: local, base_url: "{local}", price_per_hour: 1}}}}
routes:
  - model: support
    variants: [{{{{name: stable, upstream: frontier, model: big}}}}]
    rollout: {{{{autonomy: auto, steps: [0.5], window_s: 1, settle_s: 1, latency_budget_s: 2,
               margins: {{{{quality: 0.1}}}}}}}}
judges: [{{{{name: resolved, path: "judge.py:resolved"}}}}]
learner: [{{{{route: support, base_model: ./model, serve_on: local, judge: resolved}}}}]
"""


class Stage:
    def __init__(self, gateway, inference, store) -> None:
        self.gateway, self.inference, self.store = gateway, inference, store
        self.config = load_config(gateway.config_path)
        self.paths = paths_of(self.config)
        self.control = ControlClient(self.config, {})
        self.version = read_source(self.config.judges[0].file, "resolved").version
        self.now = datetime.now(UTC)

    def command(self, name, *arguments, config=None):
        path = config or self.gateway.config_path
        return CliRunner().invoke(rollout, [name, "--config", str(path), *arguments])

    def snapshot(self, weights: bytes) -> str:
        folder = self.gateway.config_path.parent
        adapter = adapter_files(folder / f"adapter-{weights.hex()}", weights)
        draft = SnapshotManifest(
            snapshot="",
            route="support",
            kind="adapter",
            files={},
            base_model="model",
            base_digest=base_model_digest(folder / "model"),
            recipe=None,
            training=None,
            run=None,
            dataset=None,
            judges={},
            parents=[],
            evaluation={},
            created_at=self.now,
        )
        return register(self.paths.snapshots, adapter, draft).snapshot

    def stable_traffic(self, sessions, **more):
        empty(self.store)
        world = World(self.store, None, start=self.now - timedelta(hours=3), version=self.version)
        for i in range(sessions):
            score, trace_id = float(i % 5 > 0), f"before-{i}"
            world.trace(f"before{i}", "stable", score=score, propensity=1.0, trace_id=trace_id, **more)
            world.judge(f"before-{i}", float(i % 5 > 0))
        world.write()

    def canary_traffic(self, rates, sessions=500):
        current = self.running
        policy = read_policy("", current["policy"])
        start = self.now - timedelta(hours=1)
        world, rng = (
            World(self.store, current["rollout"], policy, start=start, version=self.version),
            random.Random(2),
        )
        for i in range(sessions):
            candidate = rng.random() < 0.5
            world.trace(
                f"s{i}",
                "candidate" if candidate else "stable",
                after_s=i,
                propensity=0.5,
                score=float(rng.random() < rates[candidate]),
                cost_usd=0.0001 if candidate else 0.001,
            )
        world.write()

    @property
    def running(self):
        return self.control.rollouts("support")["rollouts"][0]["rollout"]

    @property
    def stable(self):
        (route,) = self.control.routes()["routes"]
        return next(variant["name"] for variant in route["variants"] if variant["stable"])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    directory = tmp_path_factory.mktemp("learner-process")
    (directory / "judge.py").write_text("def resolved(trace):\n    return True\n")
    base_model_files(directory / "model")
    with inference_stub() as inference:
        for gateway in running(directory, YAML.format(local=inference.url)):
            with started_store(gateway.config_path):
                yield gateway, inference


@pytest.fixture
def stage(parts):
    gateway, inference = parts
    config = load_config(gateway.config_path)
    with Store.connect(config, {}) as store:
        empty(store)
        stage = Stage(gateway, inference, store)
        yield stage
        while stage.running is not None or stage.stable != "stable":
            (view,) = stage.control.rollouts("support")["rollouts"]
            stage.control.roll_back({"route": "support", "version": view["version"], "why": "clean"})
        inference.adapters.clear()


@pytest.fixture
def learner(stage):
    process = subprocess.Popen(
        [sys.executable, "-m", "learner.process", "--config", str(stage.gateway.config_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_start_verifies_loads_and_freezes_before_it_routes(stage):
    snapshot = stage.snapshot(b"good")
    stage.stable_traffic(30)
    done = stage.command("start", "--snapshot", snapshot, "--why", "try it")

    assert done.exit_code == 0, done.exception
    assert list(stage.inference.adapters) == [snapshot]
    current = stage.running
    policy = read_policy("", current["policy"])
    assert (current["snapshot"], current["share"]) == (snapshot, 0.5)
    assert policy.judge_version == stage.version
    assert policy.baseline.quality == pytest.approx(0.8)
    assert policy.measures_cost
    assert isinstance(stage.command("start", "--snapshot", snapshot).exception, RefusedError)


def test_start_is_refused_where_nothing_is_known_about_stable(stage):
    stage.stable_traffic(3)
    refused = stage.command("start", "--snapshot", stage.snapshot(b"good"))

    assert isinstance(refused.exception, LearnerRefusedError)
    assert "has answered 3 sessions" in str(refused.exception)
    assert stage.running is None


def test_start_is_refused_where_the_cost_of_the_candidate_alone_would_be_unknown(stage):
    unpriced = stage.gateway.config_path.with_name("unpriced.yaml")
    unpriced.write_text(stage.gateway.config_path.read_text().replace(", price_per_hour: 1", ""))
    snapshot = stage.snapshot(b"good")
    stage.stable_traffic(30)
    refused = stage.command("start", "--snapshot", snapshot, config=unpriced)

    assert isinstance(refused.exception, LearnerRefusedError)
    assert "give upstream 'local' a price_per_hour" in str(refused.exception)
    assert (stage.running, stage.inference.adapters) == (None, {})
    stage.stable_traffic(30, cost_usd=None)
    assert stage.command("start", "--snapshot", snapshot, config=unpriced).exit_code == 0
    assert not read_policy("", stage.running["policy"]).measures_cost, "there is nothing to compare with"


def test_a_changed_snapshot_is_not_started(stage):
    snapshot = stage.snapshot(b"tampered")
    weights = stage.paths.snapshots / snapshot / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"other")
    stage.stable_traffic(30)

    assert "was changed" in str(stage.command("start", "--snapshot", snapshot).exception)
    assert stage.inference.adapters == {}
    assert stage.running is None


def test_the_process_promotes_rolls_back_and_loads_again(stage, learner):
    good, bad = stage.snapshot(b"good"), stage.snapshot(b"bad")
    stage.stable_traffic(30)
    assert stage.command("start", "--snapshot", good).exit_code == 0
    stage.canary_traffic((0.8, 0.95))
    assert eventually(lambda: stage.stable == good, 30), learner.poll()

    stage.inference.adapters.clear()  # the server was restarted
    assert eventually(lambda: good in stage.inference.adapters, 20)
    assert eventually(lambda: read_reports(stage.paths.state)["support"].action == "promoted", 10)

    (view,) = stage.control.rollouts("support")["rollouts"]
    stage.control.roll_back({"route": "support", "version": view["version"], "why": "once more"})
    assert stage.command("start", "--snapshot", bad).exit_code == 0
    stage.canary_traffic((0.8, 0.2), sessions=200)
    assert eventually(lambda: stage.running is None, 30)
    assert stage.stable == "stable"
    assert eventually(lambda: read_reports(stage.paths.state)["support"].action == "rolled back", 10)

    second = subprocess.run(
        learner.args, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert "at work already" in second.stderr
    began = time.monotonic()
    learner.send_signal(signal.SIGTERM)
    assert learner.wait(10) == 0
    assert time.monotonic() - began < 6


def test_start_is_refused_before_anything_is_loaded_where_its_judge_may_not_gate(stage):
    stage.stable_traffic(100)
    calibrate(stage.store, "resolved", stage.version, j=0.6, j_low=0.5)
    snapshot = stage.snapshot(b"held up")
    refused = stage.command("start", "--snapshot", snapshot)

    assert isinstance(refused.exception, LearnerRefusedError)
    assert f"judge 'resolved' ({stage.version}) may not gate: J 0.60" in str(refused.exception)
    assert stage.running is None
    assert snapshot not in stage.inference.adapters
