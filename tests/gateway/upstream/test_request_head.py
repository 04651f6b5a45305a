"""What a request to an upstream begins with: its key, fixed headers, query and path, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.request_path import RunningGateway, chat, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream, answers, answers_status

SECRETS = {"KEY": "upstream-key", "CF": "cf-secret"}
AZURE = {
    "api_key": {"env": "KEY"},
    "auth_header": "api-key",
    "headers": [{"name": "X-Team", "value": "search"}, {"name": "cf-access-token", "secret": {"env": "CF"}}],
    "query": [{"name": "api-version", "value": "2024-10-21"}],
    "path": "/openai/deployments/{model}{path}",
}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


def ask(gateway: RunningGateway, query: str = "", **headers: str) -> httpx.Response:
    url = f"{gateway.base_url}/chat/completions{query}"
    return httpx.post(url, json=chat(), headers=headers, timeout=10)


def azure(base_url: str, **changes: Any) -> dict[str, Any]:
    config = config_for(base_url.removesuffix("/v1"), **{**AZURE, **changes})
    config["routes"][0]["variants"][0]["model"] = "gpt 4/o"
    return config


def test_azures_way_of_asking(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, azure(upstream.base_url), SECRETS) as gateway:
        for _ in range(2):
            assert ask(gateway).status_code == 200

    for received in upstream.received:
        target = "/openai/deployments/gpt%204%2Fo/chat/completions?api-version=2024-10-21"
        assert received.target == target
        assert received.header("api-key") == "upstream-key"
        assert received.header("authorization") is None
        assert (received.header("x-team"), received.header("cf-access-token")) == ("search", "cf-secret")


def test_each_model_has_its_own_path(upstream: ScriptedUpstream, tmp_path: Path):
    config = azure(upstream.base_url)
    config["routes"][0]["fallbacks"] = [{"upstream": "up", "model": "other"}]
    config["upstreams"][0]["retries"] = {"max": 0}
    upstream.then(answers_status(429), answers(), answers_status(429), answers())
    with running_gateway(tmp_path, config, SECRETS) as gateway:
        assert [ask(gateway).status_code for _ in range(2)] == [200, 200]

    assert [received.target.split("/")[3] for received in upstream.received] == ["gpt%204%2Fo", "other"] * 2


def test_what_the_client_says_in_their_place_is_dropped(upstream: ScriptedUpstream, tmp_path: Path):
    said = {
        "api-key": "mine",
        "x-team": "mine",
        "authorization": "Bearer mine",
        "x-other": "mine",
        "cf-access-token": "mine",
    }
    with running_gateway(tmp_path, azure(upstream.base_url), SECRETS) as gateway:
        ask(gateway, "?api-version=mine&a=1", **said)
    received = upstream.received[0]

    assert received.target.endswith("?api-version=2024-10-21&a=1")
    assert [name for name, value in received.headers if value in {"mine", "Bearer mine"}] == ["x-other"]


def test_the_key_goes_as_a_bearer_where_nothing_else_is_said(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, api_key={"env": "KEY"})
    with running_gateway(tmp_path, config, SECRETS) as gateway:
        ask(gateway, "?b=2")
    received = upstream.received[0]

    assert received.header("authorization") == "Bearer upstream-key"
    assert received.target == "/v1/chat/completions?b=2"


def test_no_secret_comes_back(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, azure(upstream.base_url), SECRETS) as gateway:
        answer = ask(gateway)
        record = gateway.records()[0]

    everything = repr((answer.headers, answer.content, record, gateway.state.live)).encode()
    assert not any(secret.encode() in everything for secret in SECRETS.values())
