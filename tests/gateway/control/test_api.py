"""The control API of one worker: every endpoint, and what bad input gets."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.traces.types import CapturedRolloutEvent
from tests.support.control_gateway import Gateway, eventually, web

START = {"route": "bot", "snapshot": "bot-1", "upstream": "local", "share": 0.2, "why": "a test"}


def get(gateway: Gateway, path: str) -> httpx.Response:
    return web.get(gateway.url + path)


def post(gateway: Gateway, path: str, body: object) -> httpx.Response:
    return web.post(gateway.url + path, json=body)


def version(gateway: Gateway) -> int:
    found: int = get(gateway, "/api/rollouts?route=bot").json()["rollouts"][0]["version"]
    return found


def test_a_rollout_goes_through_all_its_decisions_and_back(one: Gateway):
    before = get(one, "/api/routes").json()["routes"][0]
    started = post(one, "/api/rollouts", {**START, "policy": {"steps": [0.2, 0.5]}, "evidence": {"n": 1}})
    assert started.status_code == 201
    made = started.json()

    def act(action: str, **more: object) -> dict[str, Any]:
        body = {"version": made["version"], "why": action, "evidence": {"e": action}, **more}
        answer = post(one, f"/api/rollouts/{made['rollout']}/{action}", body)
        assert answer.status_code == 200, answer.text
        made["version"] = answer.json()["version"]
        route: dict[str, Any] = get(one, "/api/routes").json()["routes"][0]
        assert route["version"] == made["version"]  # in force where it was decided, at once
        return route

    assert act("weight", share=0.5)["rollout"]["stage"] == 1
    assert act("pause")["rollout"]["paused"] is True
    refused = post(one, f"/api/rollouts/{made['rollout']}/promote", {"version": made["version"], "why": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "illegal_transition")
    act("resume")
    promoted = act("promote")
    assert [(v["name"], v["weight"], v["stable"]) for v in promoted["variants"]] == [
        ("stable", 0.0, False),
        ("bot-1", 1.0, True),
    ]
    assert get(one, "/api/rollouts").json()["rollouts"][0]["rollout"] is None
    back = post(one, "/api/rollback", {"route": "bot", "version": made["version"], "why": "back"})
    assert back.json()["rollout"] == made["rollout"]
    after = get(one, "/api/routes").json()["routes"][0]
    assert {**after, "version": 0} == {**before, "version": 0}
    again = post(one, "/api/rollback", {"route": "bot", "version": after["version"], "why": "back"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "illegal_transition")

    recorded = [e for e in one.seen(CapturedRolloutEvent) if e.rollout == made["rollout"]]
    kinds = ["started", "weight", "paused", "resumed", "promoted", "rolled_back"]
    assert [e.event for e in recorded] == kinds
    assert recorded[0].evidence["policy"] == {"steps": [0.2, 0.5]}
    assert recorded[1].evidence["e"] == "weight"
    assert recorded[-1].evidence["table"] == after["variants"]
    assert [e.who for e in recorded] == ["local"] * 6


def test_a_promotion_can_be_rolled_back_by_its_own_id(one: Gateway):
    made = post(one, "/api/rollouts", START).json()
    act = f"/api/rollouts/{made['rollout']}"
    promoted = post(one, f"{act}/promote", {"version": made["version"], "why": "good"}).json()
    back = post(one, f"{act}/rollback", {"version": promoted["version"], "why": "bad after all"})
    assert back.status_code == 200
    gone = post(one, f"{act}/promote", {"version": back.json()["version"], "why": "x"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "rollout_not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/rollouts", {**START, "route": "nobody"}, 404, "Routes: bot"),
        ("/api/rollouts", {**START, "upstream": "nobody"}, 422, "known: openai, local"),
        ("/api/rollouts", {**START, "share": 1.1}, 422, "$.share"),
        ("/api/rollouts", {**START, "share": None}, 422, "$.share"),
        ("/api/rollouts", {**START, "why": ""}, 422, "$.why"),
        ("/api/rollouts", {**START, "shrae": 1}, 422, "unknown field `shrae`"),
        ("/api/rollouts", {**START, "version": 99}, 409, "not 99"),
        ("/api/rollouts", {**START, "snapshot": "stable"}, 409, "in force already"),
        ("/api/rollouts/ro-0/promote", {"version": 1, "why": "x"}, 404, "No rollout 'ro-0'"),
        ("/api/rollouts/ro-0/weight", {"version": 1, "why": "x"}, 422, "weight needs one"),
        (
            "/api/rollouts/ro-0/pause",
            {"version": 1, "why": "x", "share": 0.1},
            422,
            "share belongs to weight",
        ),
        ("/api/rollouts/ro-0/explode", {"version": 1, "why": "x"}, 400, "action"),
        ("/api/rollouts/ro-0/promote", {"why": "x"}, 422, "missing required field `version`"),
        ("/api/rollback", {"route": "nobody", "version": 0, "why": "x"}, 404, "Routes: bot"),
    ],
)
def test_bad_decisions_change_nothing_and_say_why(
    one: Gateway, path: str, body: object, status: int, says: str
):
    before = get(one, "/api/routes").json()
    answer = post(one, path, body)
    assert (answer.status_code, says in answer.json()["error"]["message"]) == (status, True), answer.text
    assert get(one, "/api/routes").json() == before


def test_unknown_paths_and_methods_answer_in_openais_shape(one: Gateway):
    assert get(one, "/api/nothing").json()["error"]["code"] == "unknown_url"
    wrong = web.put(f"{one.url}/api/routes")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_supported")
    missing = get(one, "/api/explain")
    assert (missing.status_code, "model" in missing.json()["error"]["message"]) == (400, True)
    assert get(one, "/api/rollouts?route=nobody").status_code == 404


def test_explain_says_where_a_session_goes_and_the_share_of_sessions_is_the_weight(one: Gateway):
    made = post(one, "/api/rollouts", {**START, "share": 0.5}).json()
    found = [get(one, f"/api/explain?model=bot&session=s-{n}").json() for n in range(40)]
    assert {answer["variant"] for answer in found} == {"stable", "bot-1"}
    for answer in found:
        assert (answer["variant"] == "bot-1") == (answer["bucket"] < 0.5)
        assert answer["propensity"] == 0.5
    canary = next(answer for answer in found if answer["variant"] == "bot-1")
    assert (canary["upstream"], canary["upstream_model"], canary["snapshot"]) == ("local", "bot-1", "bot-1")
    assert {name: usd for name, usd in canary["price"].items() if usd is not None} == {"per_hour": 1.2}
    assert canary["rollout"] == made["rollout"]
    stable = next(answer for answer in found if answer["variant"] == "stable")
    assert (stable["price"]["output"], stable["price"]["reasoning"]) == (0.6, 0.6)
    assert (stable["price"]["cached_input"], stable["price"]["audio_input"]) == (0.15, 0.15)
    assert (stable["servers"], stable["deadlines"]["idle_s"]) == (["http://127.0.0.1:9/v1"], 30)
    assert stable["fallbacks"][0]["model"] == "small"
    assert get(one, "/api/explain?model=bot").json()["variant"] is None
    assert get(one, "/api/explain?model=bot@stable").json()["why"] == "the variant is pinned by its name"
    assert get(one, "/api/explain?model=nobody").status_code == 404
    post(one, f"/api/rollouts/{made['rollout']}/conclude", {"version": made["version"], "why": "done"})
    assert get(one, "/api/explain?model=bot").json()["why"] == "stable has all of the traffic"


def test_metrics_add_up_requests_capture_and_shares(one: Gateway):
    one.paths.state.mkdir(parents=True, exist_ok=True)
    report = {"updated_at": 1.0, "written": 7, "dropped": {"bound": 2}, "torn": 1, "quarantined": 0,
              "backlog_bytes": 10, "oldest_age_s": 0.5, "written_per_s": 3.5, "errors": None}  # fmt: skip
    (one.paths.state / "shipper.json").write_bytes(msgspec.json.encode(report))
    assert one.infer("s").status_code == 502
    assert one.infer("s").status_code == 502
    answer = get(one, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}

    def value(family: str, sample: str, **labels: str) -> float:
        samples = families[family].samples
        return next(s.value for s in samples if s.name == sample and labels.items() <= s.labels.items())

    arm = {"route": "bot", "variant": "stable"}
    assert value("tracetune_requests", "tracetune_requests_total", **arm, outcome="upstream_error") == 2
    assert value("tracetune_requests", "tracetune_requests_total", **arm, outcome="ok") == 0
    chat = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "bot", "variant": "stable"}
    for family, labels in (
        ("gen_ai_server_request_duration_seconds", chat),
        ("tracetune_upstream_seconds", arm),
        ("tracetune_overhead_seconds", arm),
    ):
        assert value(family, f"{family}_count", **labels) == 2
        assert value(family, f"{family}_bucket", **labels, le="+Inf") == 2
    failed = {"upstream": "openai", "reason": "connect"}
    assert value("tracetune_attempts_failed", "tracetune_attempts_failed_total", **failed) == 2
    assert value("tracetune_in_flight", "tracetune_in_flight") == 0
    assert value("tracetune_variant_weight", "tracetune_variant_weight", **arm) == 1
    assert value("tracetune_capture_written", "tracetune_capture_written_total", stage="shipper") == 7
    dropped = value(
        "tracetune_capture_dropped", "tracetune_capture_dropped_total", stage="shipper", reason="bound"
    )
    assert dropped == 2
    assert value("tracetune_capture_stage_up", "tracetune_capture_stage_up", stage="recorder") == 0
    assert (
        value("tracetune_capture_written_per_second", "tracetune_capture_written_per_second", stage="shipper")
        == 3.5
    )
    assert value("tracetune_capture_lag_seconds", "tracetune_capture_lag_seconds") == 0.5
    ready = get(one, "/readyz").json()
    assert (ready["capture"]["shipper"]["written"], ready["lag_s"]) == (7, 0.5)
    assert (ready["capture"]["shipper"]["dropped"], ready["capture"]["shipper"]["written_per_s"]) == (
        {"bound": 2},
        3.5,
    )


def test_openmetrics_is_given_to_who_asks_for_it(one: Gateway):
    answer = web.get(f"{one.url}/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_readiness_survives_reports_that_cannot_be_read(one: Gateway):
    (one.paths.state / "recorder.json").write_bytes(b"{")
    ready = get(one, "/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["capture"]["recorder"]["alive"]) == (
        200,
        True,
        False,
    )
    assert "cannot be read" in ready.json()["capture"]["recorder"]["errors"]


def test_the_docs_describe_every_endpoint_and_fetch_nothing(one: Gateway):
    page = get(one, "/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/api/feedback", "/api/rollouts/{rollout}/{action}", "/readyz", "/metrics"):
        assert path in page.text
    assert "FeedbackBody" in page.text
    assert "<script" not in page.text
    assert "http" not in page.text.replace("HTTP", "").replace("https://spec.openapis", "")
    assert get(one, "/api/docs/openapi.json").json()["openapi"].startswith("3.")


def test_the_last_table_is_saved_for_explain(one: Gateway):
    saved = one.paths.state / "table.json"
    made = post(one, "/api/rollouts", START).json()
    table_hash = get(one, "/api/routes").json()["table_hash"]
    assert eventually(lambda: msgspec.json.decode(saved.read_bytes())["table"]["hash"] == table_hash, 2)
    done = {"version": made["version"], "why": "done"}
    assert post(one, f"/api/rollouts/{made['rollout']}/rollback", done).status_code == 200
    assert version(one) == made["version"] + 1
