"""Two real workers on one socket: what is decided at one holds at both, and through the death of either."""

from __future__ import annotations

import signal
import time

import httpx

from gateway.traces.types import CapturedRolloutEvent
from tests.support.control_gateway import Gateway, eventually, web

START = {"route": "bot", "upstream": "local", "why": "a test", "who": "learner", "policy": {"alpha": 0.05}}


def ask(gateway: Gateway, method: str, path: str, **body: object) -> httpx.Response:
    # A connection of its own each time: the kernel picks the worker.
    return web.request(method, gateway.url + path, json=body or None)


def rollout_of(gateway: Gateway) -> dict:
    return ask(gateway, "GET", "/api/rollouts?route=bot").json()["rollouts"][0]


def in_force(gateway: Gateway, version: int) -> bool:
    """Whether a table hash other than before is in force at every worker, with *version* of the route."""
    views = [ask(gateway, "GET", "/api/routes").json()["routes"][0]["version"] for _ in range(4)]
    return len(set(gateway.hashes().values())) == 1 and set(views) == {version}


def events(gateway: Gateway) -> list[tuple[str, int]]:
    found = [(e.event, e.version) for e in gateway.seen(CapturedRolloutEvent)]
    return sorted(set(found), key=lambda event: event[1])


def test_a_decision_reaches_every_worker_within_two_seconds_and_a_stale_one_is_refused(two: Gateway):
    before = two.hashes()
    assert len(set(before.values())) == 1
    started = ask(two, "POST", "/api/rollouts", **START, snapshot="bot-1", share=0.25)
    assert started.status_code == 201
    rollout, version = started.json()["rollout"], started.json()["version"]
    assert eventually(lambda: in_force(two, version), 2)
    assert set(two.hashes().values()).isdisjoint(before.values())

    for _ in range(4):  # whichever worker is asked
        stale = ask(two, "POST", f"/api/rollouts/{rollout}/promote", version=version - 1, why="too late")
        assert (stale.status_code, stale.json()["error"]["code"]) == (409, "stale_version")
        assert stale.json()["error"]["current_version"] == version

    view = rollout_of(two)["rollout"]
    assert (view["share"], view["policy"], view["paused"]) == (0.25, {"alpha": 0.05}, False)
    ended = ask(two, "POST", f"/api/rollouts/{rollout}/rollback", version=version, why="a test")
    assert ended.status_code == 200
    assert (
        eventually(lambda: set(two.hashes().values()) == set(before.values()), 2) is False
    )  # the version rose
    assert eventually(lambda: in_force(two, version + 1), 2)
    assert events(two)[:2] == [("started", version), ("rolled_back", version + 1)]


def test_of_many_decisions_on_one_version_exactly_one_wins(two: Gateway):
    version = rollout_of(two)["version"]
    answers = [
        ask(two, "POST", "/api/rollouts", **START, snapshot="bot-2", share=0.1, version=version)
        for _ in range(3)
    ]
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    rollout = next(answer for answer in answers if answer.status_code == 201).json()["rollout"]
    done = ask(two, "POST", f"/api/rollouts/{rollout}/conclude", version=version + 1, why="a test")
    assert done.status_code == 200


def test_an_edit_of_the_variants_ends_the_rollout_at_every_worker_with_one_pair_of_events(two: Gateway):
    version = rollout_of(two)["version"]
    ask(two, "POST", "/api/rollouts", **START, snapshot="bot-3", share=0.1)
    two.edit(lambda text: text.replace("model: big}]\n    fallbacks", "model: bigger}]\n    fallbacks"))
    assert eventually(lambda: in_force(two, version + 3), 3)
    route = ask(two, "GET", "/api/routes").json()["routes"][0]
    assert [v["model"] for v in route["variants"]] == ["bigger"]
    assert route["rollout"] is None
    ends = [e for e in two.seen(CapturedRolloutEvent) if e.version > version + 1]
    assert [(e.event, e.version) for e in ends] == [
        ("inconclusive", version + 2),
        ("overlay_dropped", version + 3),
    ]


def test_an_invalid_file_is_one_line_in_the_log_and_changes_nothing(two: Gateway):
    before = two.hashes()
    good = two.config_path.read_text()
    two.edit(lambda text: text + "typo: 1\n")
    assert eventually(lambda: two.log.read_text().count("the former configuration stays in force") == 2, 3)
    assert "unknown field `typo`" in two.log.read_text()
    assert two.hashes() == before
    assert count(two, 'tracetune_config_reloads_total{result="invalid"}') == 2
    two.config_path.write_text(good)
    time.sleep(0.6)
    assert two.hashes() == before
    assert "traceback" not in two.log.read_text().lower()


def test_the_death_of_a_worker_loses_no_decision_and_no_count(two: Gateway):
    started = ask(two, "POST", "/api/rollouts", **START, snapshot="bot-4", share=0.5).json()
    assert eventually(lambda: in_force(two, started["version"]), 2)
    for number in range(20):
        assert two.infer(f"s-{number}").status_code == 502
    for index in (0, 1):
        two.workers[index].send_signal(signal.SIGKILL)
        two.workers[index].wait()
        two.start(index)
    assert in_force(two, started["version"])
    assert rollout_of(two)["rollout"]["share"] == 0.5
    arms = [f'route="bot",variant="{name}"' for name in ("stable", "bot-4")]
    counts = [count(two, f'tracetune_requests_total{{outcome="upstream_error",{arm}}}') for arm in arms]
    assert (sum(counts), min(counts) > 0) == (20, True)
    assert count(two, "tracetune_workers") == 2
    assert count(two, 'tracetune_variant_weight{route="bot",variant="bot-4"}') == 0.5


def count(gateway: Gateway, series: str) -> float:
    page = ask(gateway, "GET", "/metrics").text
    return float(next(line for line in page.splitlines() if line.startswith(series + " ")).split()[-1])
