"""`explain` says what a request would meet now: health, limits, what the key has left; else that it is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.quotas.counters import COUNTERS
from gateway.quotas.lock import lock_now
from tests.gateway.control.test_commands import tracetune
from tests.support.control_gateway import ADMIN_KEY, YAML, Gateway, eventually, running, web
from tests.support.request_path import chat, config_for, post_chat, running_gateway
from tests.support.upstream import ScriptedUpstream, answers_status, hangs

EJECTING = YAML.replace(
    "retries: {{max: 0}}\n    prices",
    "retries: {{max: 0}}\n    ejection: {{consecutive: 2, base_s: 60, cap_s: 60}}\n    prices",
)
LIMITED: dict[str, Any] = {
    "keys": [
        {
            "name": "web",
            "key": {"env": "WEB"},
            "routes": ["bot"],
            "limits": [{"per": "day", "requests": 10, "usd": 2}, {"per": "month", "tokens": 100_000}],
        },
        {"name": "ops", "key": {"env": "OPS"}, "scopes": ["infer", "admin", "pin"]},
        {"name": "ears", "key": {"env": "EARS"}, "scopes": ["feedback"]},
    ]
}
KEYS = {"WEB": "key-web", "OPS": "key-ops", "EARS": "key-ears", "TRACETUNE_ADMIN_KEY": ADMIN_KEY}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


def keyed(base_url: str) -> dict[str, Any]:
    price = {"model": "served-model", "input": 1, "output": 1}
    config = config_for(base_url, prices=[price], limits={"concurrent": 7, "queue": 3}, default=True)
    return {**config, "auth": LIMITED, "listen": {"concurrent": 99}}


def explained(url: str, key: str = ADMIN_KEY, **asked: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    answer = web.get(f"{url}/api/explain", params={"model": "bot", **asked}, headers=headers)
    found: dict[str, Any] = answer.json()
    return found


def listen_there(directory: Path, port: int) -> None:
    """Write *port* into the configuration, where the command looks for the gateway."""
    path = directory / "tracetune.yaml"
    path.write_text(path.read_text().replace("concurrent: 99", f"concurrent: 99\n  port: {port}"))


def test_servers_that_are_ejected_are_told_with_why_and_until_when(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(503)
    config = config_for(
        upstream.base_url, ejection={"base_s": 60, "cap_s": 60, "consecutive": 2}, retries={"max": 0}
    )
    with running_gateway(tmp_path, config) as gateway:
        before = explained(gateway.url)["now"]["upstreams"][0]["servers"][0]
        for _ in range(2):
            httpx.post(f"{gateway.base_url}/chat/completions", json=chat())
        after = explained(gateway.url)["now"]["upstreams"][0]["servers"][0]

    assert (before["state"], before["why"], before["ejected_for_s"]) == ("healthy", None, None)
    assert (after["state"], after["why"], after["url"]) == ("ejected", "status_503", upstream.base_url)
    assert 40 < after["ejected_for_s"] <= 60


@pytest.mark.parametrize("sticky_by", ["session", "subject"])
def test_a_request_is_answered_by_the_variant_that_was_told(
    upstream: ScriptedUpstream, tmp_path: Path, sticky_by: str
):
    config = keyed(upstream.base_url)
    arms = [{"name": name, "upstream": "up", "model": "served-model", "weight": 0.5} for name in "ab"]
    config["routes"] = [{"model": "bot", "variants": arms, "sticky_by": sticky_by}]
    answered = []
    with running_gateway(tmp_path, config, KEYS) as gateway:
        for number in range(8):
            asked = {"session": f"s-{number}", "subject": f"u-{number}"}
            headers = {"authorization": "Bearer key-ops", "x-tracetune-session": asked["session"]}
            headers["x-tracetune-user"] = asked["subject"]
            answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), headers=headers)
            answered.append(answer.headers["x-tracetune-variant"])
            assert explained(gateway.url, client="ops", **asked)["variant"] == answered[-1]
        listen_there(tmp_path, gateway.port)
    for number, variant in enumerate(answered):
        ask = ("--session", f"s-{number}", "--subject", f"u-{number}", "--client", "ops", "--json")
        at_rest = tracetune(tmp_path, "explain", "--model", "bot", *ask, **KEYS)
        assert json.loads(at_rest.stdout)["variant"] == variant


def test_how_full_upstream_and_process_are_is_told(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = hangs()
    config = {
        **config_for(upstream.base_url, limits={"concurrent": 1, "queue": 3}),
        "listen": {"concurrent": 99},
    }
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as one, gateway.connect() as other:
        one.sendall(post_chat())
        upstream.wait_received()
        other.sendall(post_chat())
        assert eventually(lambda: explained(gateway.url)["now"]["upstreams"][0]["waiting"] == 1, 5)
        now = explained(gateway.url)["now"]

    assert {name: now[name] for name in ("workers", "in_flight", "concurrent")} == {
        "workers": 1,
        "in_flight": 2,
        "concurrent": 99,
    }
    up = now["upstreams"][0]
    assert (up["in_flight"], up["concurrent"], up["waiting"], up["queue"]) == (1, 1, 1, 3)
    assert up["servers"][0]["outstanding"] == 1


def test_what_a_named_key_has_left_is_told_or_else_the_callers_own(
    upstream: ScriptedUpstream, tmp_path: Path
):
    with running_gateway(tmp_path, keyed(upstream.base_url), KEYS) as gateway:
        headers = {"authorization": "Bearer key-web"}
        url = f"{gateway.base_url}/chat/completions"
        assert httpx.post(url, json=chat(max_tokens=5), headers=headers).status_code == 200
        named = explained(gateway.url, client="web")
        own = explained(gateway.url, "key-ops")
        admin = explained(gateway.url)

    day, month = named["now"]["key"]["windows"]
    assert (day["per"], day["requests"]["used"], day["requests"]["left"]) == ("day", 1, 9)
    assert 0 < day["usd"]["used"] < 2
    assert month["tokens"]["left"] == 100_000 - month["tokens"]["used"] < 100_000
    assert named["bounds"]["key"] == "web"
    assert [limit["per"] for limit in named["bounds"]["key_limits"]] == ["day", "month"]
    assert (own["bounds"]["key"], own["bounds"]["key_limits"], own["now"]["key"]) == ("ops", [], None)
    assert (admin["bounds"]["key"], admin["now"]["key"]) == (None, None)


def test_counters_that_cannot_be_read_hide_nothing_else(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, keyed(upstream.base_url), KEYS) as gateway:
        held = lock_now(gateway.state.paths.quotas / COUNTERS)
        assert held is not None
        listen_there(tmp_path, gateway.port)
        shown = tracetune(tmp_path, "explain", "--model", "bot", "--client", "web", **KEYS).stdout
        held.close()
    assert "healthy, 0 outstanding" in shown
    assert "10 requests, 2 USD per day; left unknown: " in shown


def test_a_key_that_nobody_has_is_said_with_those_there_are(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, keyed(upstream.base_url), KEYS) as gateway:
        error = explained(gateway.url, client="wbe")["error"]
    assert (error["code"], error["param"]) == ("key_not_found", "client")
    assert error["message"] == "no key is named 'wbe'; keys (auth.keys): web, ops, ears"


def test_a_key_that_would_be_refused_is_told_so(upstream: ScriptedUpstream, tmp_path: Path):
    asked = [("web", "bot"), ("web", "gpt-9"), ("web", "bot@stable"), ("ops", "bot@stable"), ("ears", "bot")]
    with running_gateway(tmp_path, keyed(upstream.base_url), KEYS) as gateway:
        told = [explained(gateway.url, client=client, model=model)["refused"] for client, model in asked]
        url = f"{gateway.base_url}/chat/completions"
        statuses = [
            httpx.post(
                url,
                json={**chat(), "model": model},
                headers={"authorization": f"Bearer {KEYS[client.upper()]}"},
            ).status_code
            for client, model in asked
        ]
    assert [bool(reason) for reason in told] == [status in {403, 404} for status in statuses]
    assert told == [
        None,
        "key 'web' may not use models that no route serves (auth.keys[].routes)",
        "key 'web' lacks scope 'pin' for a variant of its own choice (auth.keys[].scopes)",
        None,
        "key 'ears' lacks scope 'infer' (auth.keys[].scopes)",
    ]


def test_the_upstreams_of_fallbacks_and_of_every_variant_in_question_are_told(tmp_path: Path):
    for gateway in running(tmp_path):
        stable = explained(gateway.url)
        start = {"route": "bot", "snapshot": "bot-1", "upstream": "local", "share": 0.2, "why": "a test"}
        assert web.post(f"{gateway.url}/api/rollouts", json=start).status_code == 201
        open_ended = explained(gateway.url)
        canary = explained(gateway.url, model="bot@bot-1")

    def names(found: dict[str, Any]) -> tuple[list[str], list[str]]:
        return [each["name"] for each in found["now"]["upstreams"]], [
            each["name"] for each in found["bounds"]["upstreams"]
        ]

    assert names(stable) == (["openai", "local"], ["openai", "local"])
    assert open_ended["variant"] is None
    assert names(open_ended) == (["openai", "local"], ["openai", "local"])
    assert names(canary) == (["local"], ["local"])


def test_all_workers_are_together_in_what_is_told_of_servers(tmp_path: Path):
    for gateway in running(tmp_path, EJECTING, workers=2):
        assert eventually(partial(_is_ejected_by_both, gateway), 20)
        assert {explained(gateway.url)["now"]["workers"] for _ in range(8)} == {2}
        shown = tracetune(tmp_path, "explain", "--model", "bot").stdout
        assert "ejected by 2 of 2 workers, tried again in " in shown
        assert ", for connect, 0 outstanding" in shown
    assert not gateway.paths.sightings.exists()


def _is_ejected_by_both(gateway: Gateway) -> bool:
    """Whichever worker is asked, and by both ways of asking."""
    gateway.infer("s")
    listed = [web.get(f"{gateway.url}/api/upstreams").json()[0] for _ in range(4)]
    told = [*listed, *(explained(gateway.url)["now"]["upstreams"][0] for _ in range(4))]
    assert {each["name"] for each in told} == {"openai"}
    return {each["servers"][0]["ejected_by"] for each in told} == {2}


def test_the_command_shows_health_limits_and_the_key(upstream: ScriptedUpstream, tmp_path: Path):
    config = keyed(upstream.base_url)
    with running_gateway(tmp_path, config, KEYS) as gateway:
        listen_there(tmp_path, gateway.port)
        ask = ("explain", "--model", "bot", "--client", "web")
        shown = tracetune(tmp_path, *ask, **KEYS).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"health up {upstream.base_url}: healthy, 0 outstanding" in lines
    assert "limits up: 0 of 7 at a time, 0 of 3 waiting" in lines
    assert "all requests: 0 of 99 at a time (listen.concurrent)" in lines
    assert any(line.startswith("key web: 10 of 10 requests left, 2 of 2 USD left until 20") for line in lines)

    shown = tracetune(tmp_path, *ask, **KEYS).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "health unknown (no gateway runs)" in lines
    assert "limits up: 7 at a time, 3 waiting; now unknown (no gateway runs)" in lines
    assert "all requests: 99 at a time (listen.concurrent); now unknown (no gateway runs)" in lines
    assert "key web: 10 requests, 2 USD per day; left unknown (no gateway runs)" in lines
    assert "web: 100000 tokens per month; left unknown (no gateway runs)" in lines
    assert json.loads(tracetune(tmp_path, *ask, "--json", **KEYS).stdout)["now"] is None
