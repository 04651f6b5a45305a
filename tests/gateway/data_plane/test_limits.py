"""Limits of keys, over sockets: reserved before the call, settled after it, one counter for both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    ScriptedUpstream,
    answers,
    answers_status,
    delta,
    event,
    hangs,
    streams,
    streams_events,
)

KEYS = {"WEB": "key-web", "FREE": "key-free", "OPS": "key-ops"}
PRICES = [{"model": "served-model", "input": 1.0, "output": 2.0}]
USED = 13  # tokens of a scripted answer: 11 read, 2 written
USD = (11 * 1.0 + 2 * 2.0) / 1e6


@contextmanager
def limited(
    directory: Path, upstream: ScriptedUpstream, *limits: dict[str, Any], **changes: Any
) -> Iterator[RunningGateway]:
    """A gateway whose key `web` has *limits*."""
    config = config_for(upstream.base_url, **{"prices": PRICES, "retries": {"max": 0}, **changes})
    config["auth"] = {
        "keys": [
            {"name": "web", "key": {"env": "WEB"}, "limits": list(limits)},
            {"name": "free", "key": {"env": "FREE"}},
            {"name": "ops", "key": {"env": "OPS"}, "scopes": ["admin"]},
        ]
    }
    with running_gateway(directory, config, KEYS) as gateway:
        yield gateway


def ask(gateway: RunningGateway, key: str = "key-web", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = {**chat(), "max_tokens": 10, **fields}
    return httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=10)


def standing(gateway: RunningGateway, unit: str) -> dict[str, float]:
    """What `GET /api/limits` says of the key's first window."""
    headers = {"authorization": "Bearer key-ops"}
    report = httpx.get(f"{gateway.url}/api/limits", headers=headers).json()
    assert [key["name"] for key in report] == ["web"]
    found: dict[str, float] = report[0]["windows"][0][unit]
    return found


def test_as_many_requests_pass_as_the_limit_says(upstream: ScriptedUpstream, tmp_path: Path):
    with limited(tmp_path, upstream, {"per": "day", "requests": 3}) as gateway:
        answered = [ask(gateway) for _ in range(5)]
        others = [ask(gateway, "key-free").status_code for _ in range(2)]
        left = standing(gateway, "requests")

    assert [answer.status_code for answer in answered] == [200] * 3 + [429] * 2
    assert others == [200, 200]
    assert [answer.headers.get("x-ratelimit-remaining-requests") for answer in answered[:3]] == [
        "2",
        "1",
        "0",
    ]
    assert answered[0].headers["x-ratelimit-limit-requests"] == "3"
    refused = answered[-1]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) <= 86_400
    assert (left["limit"], left["used"], left["reserved"], left["left"]) == (3, 3, 0, 0)
    assert len(upstream.received) == 5


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_settled_by_what_was_used(upstream: ScriptedUpstream, tmp_path: Path, stream: bool):
    upstream.default = streams(["a", "b"]) if stream else answers()
    with limited(tmp_path, upstream, {"per": "hour", "tokens": 1000}) as gateway:
        for _ in range(3):
            assert ask(gateway, stream=stream).status_code == 200
        assert standing(gateway, "tokens")["used"] == 3 * USED


def test_dollars_are_counted_by_the_price_and_refused_as_a_quota(upstream: ScriptedUpstream, tmp_path: Path):
    with limited(tmp_path, upstream, {"per": "month", "usd": 0.0001}) as gateway:
        statuses = [ask(gateway).status_code for _ in range(8)]
        used = standing(gateway, "usd")["used"]
        client = openai.OpenAI(base_url=gateway.base_url, api_key="key-web", max_retries=0)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="bot", messages=[], max_tokens=10)

    passed = statuses.count(200)
    assert statuses == [200] * passed + [429] * (8 - passed)
    assert used == pytest.approx(passed * USD)
    assert refused.value.code == "insufficient_quota"


def test_a_model_without_a_price_is_refused_where_dollars_are_limited(
    upstream: ScriptedUpstream, tmp_path: Path
):
    with limited(tmp_path, upstream, {"per": "day", "usd": 1.0}, prices=[]) as gateway:
        answer = ask(gateway)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unknown_price")
    assert "upstreams[].prices" in answer.json()["error"]["message"]
    assert upstream.received == []


def test_requests_in_flight_hold_what_they_may_use(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = hangs()
    with limited(tmp_path, upstream, {"per": "day", "tokens": 1200}) as gateway:
        first = threading.Thread(target=lambda: ask(gateway, max_tokens=900))
        first.start()
        upstream.wait_received()
        refused = ask(gateway, max_tokens=900)
        assert standing(gateway, "tokens")["reserved"] > 900
        upstream.drop_connections()
        first.join()
        wait_until(lambda: standing(gateway, "tokens")["reserved"] == 0)

        assert refused.status_code == 429
        assert standing(gateway, "tokens")["used"] == 0
        upstream.default = answers()
        assert ask(gateway, max_tokens=900).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "wish", [{"n": 50}, {"max_tokens": 10**400}, {"n": 10**400}], ids=["n", "huge", "huge n"]
)
def test_what_asks_for_more_than_the_limit_is_refused_at_once(
    upstream: ScriptedUpstream, tmp_path: Path, wish: dict[str, int], stream: bool
):
    with limited(tmp_path, upstream, {"per": "day", "tokens": 400, "usd": 1}) as gateway:
        assert ask(gateway, stream=stream, **wish).status_code == 429

    assert upstream.received == []


@pytest.mark.parametrize(
    ("script", "requests"),
    [(answers_status(500), 1), (answers_status(429), 1), (answers_status(400), 1)],
)
def test_a_request_that_failed_used_no_tokens(upstream: ScriptedUpstream, tmp_path: Path, script, requests):
    upstream.default = script
    limits = {"per": "day", "requests": 10, "tokens": 1000}
    with limited(tmp_path, upstream, limits) as gateway:
        assert ask(gateway).status_code >= 400
        assert standing(gateway, "tokens")["used"] == 0
        assert standing(gateway, "requests")["used"] == requests


def test_what_we_refuse_ourselves_counts_nowhere(upstream: ScriptedUpstream, tmp_path: Path):
    with limited(tmp_path, upstream, {"per": "day", "requests": 10}) as gateway:
        assert ask(gateway, model="unknown").status_code == 404
        assert standing(gateway, "requests")["used"] == 0


@pytest.mark.parametrize("begun", [False, True])
def test_whoever_leaves_in_time_has_limits_all_the_same(
    upstream: ScriptedUpstream, tmp_path: Path, begun: bool
):
    upstream.default = streams_events([event(delta("begun"))], then="hang") if begun else hangs()
    limits = {"per": "day", "tokens": 100_000}
    with limited(tmp_path, upstream, limits) as gateway:
        body = json.dumps({**chat(), "stream": True, "max_tokens": 500}).encode()
        with gateway.connect() as client:
            client.sendall(post_bytes(body, "/v1/chat/completions", "authorization: Bearer key-web"))
            upstream.wait_received()
            if begun:
                assert client.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: standing(gateway, "tokens")["reserved"] == 0)

        assert standing(gateway, "tokens")["used"] > 500


def test_what_is_passed_through_counts_as_a_request(upstream: ScriptedUpstream, tmp_path: Path):
    config = {"default": True, "passthrough": ["audio"]}
    with limited(tmp_path, upstream, {"per": "day", "requests": 2}, **config) as gateway:
        statuses = [speak(gateway).status_code for _ in range(3)]
        left = standing(gateway, "requests")

    assert statuses == [200, 200, 429]
    assert (left["used"], left["reserved"]) == (2, 0)
    assert len(upstream.received) == 2


def test_what_is_passed_through_has_no_price_where_dollars_are_limited(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config = {"default": True, "passthrough": ["audio"]}
    with limited(tmp_path, upstream, {"per": "day", "usd": 1.0}, **config) as gateway:
        answer = speak(gateway)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unknown_price")
    assert upstream.received == []


def speak(gateway: RunningGateway) -> httpx.Response:
    headers = {"authorization": "Bearer key-web"}
    return httpx.post(f"{gateway.base_url}/audio/speech", content=b"text", headers=headers, timeout=10)


def test_the_upstreams_own_limits_are_not_the_keys(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers("hello", ("x-ratelimit-remaining-requests", "77"))
    with limited(tmp_path, upstream, {"per": "day", "requests": 9}) as gateway:
        mine, others = ask(gateway), ask(gateway, "key-free")

    assert mine.headers.get_list("x-ratelimit-remaining-requests") == ["8"]
    assert others.headers.get_list("x-ratelimit-remaining-requests") == ["77"]


def test_a_limit_that_is_raised_keeps_what_was_used(upstream: ScriptedUpstream, tmp_path: Path):
    with limited(tmp_path, upstream, {"per": "day", "requests": 2}) as gateway:
        assert [ask(gateway).status_code for _ in range(3)] == [200, 200, 429]
        path = gateway.state.config_path
        path.write_text(path.read_text().replace("requests: 2", "requests: 3"))
        wait_until(lambda: standing(gateway, "requests")["limit"] == 3)

        assert [ask(gateway).status_code for _ in range(2)] == [200, 429]


def test_what_was_used_outlives_a_restart(upstream: ScriptedUpstream, tmp_path: Path):
    for used in (1, 2):
        with limited(tmp_path, upstream, {"per": "month", "requests": 9}) as gateway:
            assert ask(gateway).status_code == 200
            assert standing(gateway, "requests")["used"] == used
