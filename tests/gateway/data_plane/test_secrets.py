"""Secrets that are planted everywhere are found nowhere: not in a log, a trace, an error, a metric, an answer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.paths import paths_of
from tests.support.request_path import RunningGateway, chat, config_for, running_gateway, wait_until
from tests.support.upstream import (
    Received,
    Reply,
    ScriptedUpstream,
    answers,
    answers_status,
    sends,
    streams,
    streams_events,
)

SECRETS = {
    "UP": "sk-upstream-planted-1",
    "CF": "cf-header-planted-2",
    "WEB": "sk-client-planted-3",
    "TRACETUNE_ADMIN_KEY": "admin-planted-4",
}
WRONG = "sk-wrong-planted-5"
PLANTED = [*SECRETS.values(), WRONG]


def config(base_url: str) -> dict[str, Any]:
    made = config_for(
        base_url,
        api_key={"env": "UP"},
        headers=[{"name": "cf-access-token", "secret": {"env": "CF"}}],
        default=True,
        passthrough=["audio"],
        retries={"max": 1},
        timeouts={"headers_s": 0.5, "idle_s": 0.5},
    )
    limits = [{"per": "day", "requests": 1000}]
    made["auth"] = {"keys": [{"name": "web", "key": {"env": "WEB"}, "limits": limits}]}
    return made


async def quotes(received: Received, reply: Reply) -> None:
    """Says what it was told, as servers do that dislike a key."""
    body = json.dumps({"error": {"message": f"wrong key, headers {received.headers}"}}).encode()
    await reply.whole(body, 401, ("content-type", "application/json"))


def ask(gateway: RunningGateway, key: str, path: str = "/chat/completions", **fields: Any) -> bytes:
    """All that comes back."""
    url = f"{gateway.base_url}{path}"
    try:
        answer = httpx.post(url, json=chat(**fields), headers={"authorization": f"Bearer {key}"}, timeout=10)
    except httpx.HTTPError as error:
        return repr(error).encode()
    return repr((answer.headers.multi_items(), answer.content)).encode()


def told_to_people(gateway: RunningGateway) -> list[bytes]:
    paths = ["/metrics", "/readyz", "/api/upstreams", "/api/limits", "/api/explain?model=bot", "/api/routes"]
    headers = {"authorization": f"Bearer {SECRETS['TRACETUNE_ADMIN_KEY']}"}
    return [httpx.get(gateway.url + path, headers=headers).content for path in paths]


def test_no_planted_secret_is_found_anywhere(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    scripts = [
        answers(),
        streams(["a"]),
        quotes,
        answers_status(500),
        streams_events([b'data: {"error": {"message": "no"}}\n\n']),
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"),
        sends(b"nonsense"),
    ]
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        seen: list[bytes] = []
        for script in scripts:
            upstream.default = script
            for key in (SECRETS["WEB"], WRONG):
                seen += [
                    ask(gateway, key),
                    ask(gateway, key, stream=True),
                    ask(gateway, key, "/audio/speech"),
                ]
        seen += told_to_people(gateway)
        path = gateway.state.config_path
        path.write_text(path.read_text() + "\nbroken: [")
        wait_until(lambda: "stays in force" in caplog.text)
        paths = paths_of(gateway.state.live.config)
        files = [file for root in (paths.segments, paths.data) for file in root.rglob("*") if file.is_file()]
        seen += [file.read_bytes() for file in files]
        seen += [repr(gateway.state.live).encode(), caplog.text.encode()]

    assert len(files) >= 3
    assert len(upstream.received) > len(scripts)
    assert [secret for secret in PLANTED if any(secret.encode() in each for each in seen)] == []


def test_an_upstream_that_quotes_our_key_is_masked_and_else_unchanged(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = quotes
    with running_gateway(tmp_path, config(upstream.base_url), SECRETS) as gateway:
        headers = {"authorization": f"Bearer {SECRETS['WEB']}"}
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), headers=headers)
        record = gateway.records()[0]

    assert answer.status_code == 401
    assert f"Bearer {'*' * len(SECRETS['UP'])}" in answer.json()["error"]["message"]
    assert record.response == answer.content
