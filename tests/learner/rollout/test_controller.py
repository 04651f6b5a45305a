"""The controller does what the evidence says, as far as the route's autonomy lets it, and records why."""

from __future__ import annotations

import random

import msgspec
import pytest

from gateway.config import load_config
from gateway.errors import StoreError
from gateway.paths import paths_of
from learner.rollout.controller import step
from learner.rollout.state import read_proposals, read_reports
from tests.learner.rollout.gateway import GatewayInMemory
from tests.learner.rollout.support import frozen
from tests.learner.rollout.world import NOW, World

YAML = """
store: {url: "embedded:./data"}
upstreams:
  - {name: frontier, base_url: "http://127.0.0.1:9/v1"}
  - {name: local, base_url: "http://127.0.0.1:9/v1", price_per_hour: 1}
routes:
  - model: support
    variants: [{name: stable, upstream: frontier, model: big}]
    rollout: {autonomy: AUTONOMY}
"""


class Scene:
    """A route in a rollout at one half, over a store that a test fills."""

    def __init__(self, directory, store, autonomy="auto", share=0.5, **policy) -> None:
        path = directory / "tracetune.yaml"
        path.write_text(YAML.replace("AUTONOMY", autonomy))
        self.config, self.store = load_config(path), store
        self.state = paths_of(self.config).state
        self.gateway = GatewayInMemory(self.config)
        self.policy = frozen(window_s=1, settle_s=1, latency_budget_s=2, **policy)
        self.share = share
        self.gateway.start_rollout(
            {
                "route": "support",
                "snapshot": "snap-1",
                "upstream": "local",
                "share": share,
                "policy": msgspec.to_builtins(self.policy),
                "who": "test",
                "why": "test",
            }
        )

    def traffic(self, sessions, quality, cost_usd=(0.001, 0.0001), **more):
        rng = random.Random(5)
        world = World(self.store, "ro-1", self.policy)
        for i in range(sessions):
            candidate = rng.random() < self.share
            world.trace(
                f"s{i}",
                "candidate" if candidate else "stable",
                after_s=i,
                score=float(rng.random() < quality[candidate]),
                propensity=self.share if candidate else 1 - self.share,
                cost_usd=cost_usd[candidate],
                **more,
            )
        world.write()

    def step(self, store=None):
        (report,) = step(self.config, store or self.store, self.gateway, lambda: NOW)
        return report

    @property
    def decided(self):
        return [event.event for event in self.gateway.events]

    @property
    def stable(self):
        return self.gateway.overlay.routes["support"].route.stable.name


GOOD, BAD, EQUAL = (0.8, 0.9), (0.8, 0.3), (0.8, 0.8)


def test_auto_promotes_a_good_candidate_with_its_evidence(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store)
    scene.traffic(600, GOOD)
    report = scene.step()

    assert report.action == "promoted"
    assert scene.stable == "snap-1"
    event = scene.gateway.events[-1]
    assert (event.event, event.who) == ("promoted", "controller")
    assert event.evidence["policy_digest"] == scene.policy.digest
    assert event.evidence["decision"]["units_candidate"] > 200
    assert step(scene.config, clean_store, scene.gateway, lambda: NOW) == []


def test_ask_holds_a_promotion_until_the_evidence_or_the_rollout_is_gone(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store, autonomy="ask")
    scene.traffic(600, GOOD)
    assert scene.step().action == "proposed"
    first = read_proposals(scene.state)["support"]
    assert scene.step().action == "proposed"

    assert read_proposals(scene.state)["support"] == first
    assert first.evidence["decision"]["kind"] == "promote"
    assert scene.decided == ["started"]
    scene.gateway.act("ro-1", "rollback", {"version": 1, "who": "me", "why": "no"})
    assert step(scene.config, clean_store, scene.gateway, lambda: NOW) == []
    assert read_proposals(scene.state) == {}


@pytest.mark.parametrize("autonomy", ["auto", "ask", "observe"])
def test_a_rollback_never_asks(tmp_path, clean_store, autonomy):
    scene = Scene(tmp_path, clean_store, autonomy=autonomy)
    scene.traffic(100, BAD)

    assert scene.step().action == "rolled back"
    assert scene.decided == ["started", "rolled_back"]
    assert scene.stable == "stable"


def test_observe_only_reports_what_it_would_do(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store, autonomy="observe")
    scene.traffic(600, GOOD)

    assert scene.step().action == "observed"
    assert read_reports(scene.state)["support"].decision.kind == "promote"
    assert scene.decided == ["started"]


def test_the_ramp_rises_through_the_gateway(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store, share=0.1, step_units=10)
    scene.traffic(200, EQUAL)

    assert scene.step().action == "raised"
    assert scene.gateway.rollouts()["rollouts"][0]["rollout"]["share"] == 0.25
    assert scene.step().action == "waiting"  # for sessions of the new share


def test_the_horizon_concludes(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store, max_units=100, min_units=90)
    scene.traffic(100, EQUAL)

    assert scene.step().action == "concluded"
    assert scene.decided == ["started", "inconclusive"]


def test_a_decision_on_a_stale_version_is_refused_and_taken_anew(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store)
    scene.traffic(600, GOOD)
    before = scene.gateway.rollouts()
    scene.gateway.act("ro-1", "weight", {"version": 1, "who": "me", "why": "faster", "share": 0.6})
    fresh, scene.gateway.rollouts = scene.gateway.rollouts, lambda *_: before

    assert scene.step().action == "stale"
    scene.gateway.rollouts = fresh
    assert scene.step().action == "promoted"


def test_while_the_store_is_away_the_ramp_waits_and_says_so(tmp_path, clean_store):
    class Away:
        def query(self, *_):
            raise StoreError("the store does not answer")

    scene = Scene(tmp_path, clean_store, share=0.1, step_units=10)
    scene.traffic(200, EQUAL)
    report = scene.step(Away())

    assert (report.action, report.error) == ("blind", "the store does not answer")
    assert scene.step().action == "raised"


def test_a_policy_of_another_making_is_left_alone_and_reported(tmp_path, clean_store):
    scene = Scene(tmp_path, clean_store)
    entry = scene.gateway.overlay.routes["support"]
    trial = msgspec.structs.replace(entry.trial, policy={"by": "hand"})
    changed = msgspec.structs.replace(entry, trial=trial)
    scene.gateway.overlay = msgspec.structs.replace(scene.gateway.overlay, routes={"support": changed})
    report = scene.step()

    assert report.action == "blind"
    assert "ro-1" in report.error
