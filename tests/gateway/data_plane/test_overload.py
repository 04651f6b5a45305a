"""What there is no room for is refused at once, and what waits for room waits no longer than it may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    post_chat,
    running_gateway,
    wait_until,
)
from tests.support.upstream import ScriptedUpstream, hangs


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(**fields), timeout=20)


def full_for(upstream: ScriptedUpstream, **listen: Any) -> dict[str, Any]:
    """No more than one request at a time."""
    upstream.default = hangs()
    config = config_for(upstream.base_url, default=True, passthrough=["moderations"])
    return {**config, "listen": {"concurrent": 1, **listen}}


@pytest.fixture
def full(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway with all the requests that it may have."""
    with running_gateway(tmp_path, full_for(upstream)) as gateway, gateway.connect() as first:
        first.sendall(post_chat())
        upstream.wait_received()
        yield gateway


HALF = post_bytes(b'{"input": "hello"}')[:-5]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/moderations"])
def test_a_full_process_refuses_at_once_though_the_body_is_still_to_come(
    full: RunningGateway, upstream: ScriptedUpstream, path: str
):
    with full.connect() as connection:
        connection.sendall(HALF.replace(b"/v1/chat/completions", path.encode()))
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in answer
    assert b"listen.concurrent" in answer
    assert len(upstream.received) == 1


def test_a_body_that_is_still_to_come_takes_its_place(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, full_for(upstream)) as gateway, gateway.connect() as first:
        first.sendall(HALF)
        wait_until(lambda: gateway.state.in_flight == 1)

        assert ask(gateway).status_code == 503


def test_a_place_that_was_refused_or_left_is_free_again(full: RunningGateway, upstream: ScriptedUpstream):
    assert {ask(full).status_code for _ in range(3)} == {503}
    assert full.state.in_flight == 1


def test_probes_and_the_list_of_models_need_no_place(full: RunningGateway):
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
        assert httpx.get(full.url + path).status_code == 200


@pytest.mark.parametrize("of", ["the process", "the upstream"])
def test_each_worker_takes_its_part_of_a_limit(upstream: ScriptedUpstream, tmp_path: Path, of: str):
    if of == "the process":
        config = full_for(upstream, workers=3, concurrent=5)  # two of them are this worker's
    else:
        config = full_for(upstream, workers=3, concurrent=99)
        config["upstreams"][0]["limits"] = {"concurrent": 5, "queue": 0}
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as one, gateway.connect() as two:
        one.sendall(post_chat())
        two.sendall(post_chat())
        upstream.wait_received(2)

        assert ask(gateway).status_code == (503 if of == "the process" else 429)


def test_whoever_waits_for_an_upstream_waits_no_longer_than_the_total_deadline(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = hangs()
    config = config_for(upstream.base_url, limits={"concurrent": 1, "queue": 5})
    config["routes"].append({**config["routes"][0], "model": "hasty", "timeouts": {"total_s": 0.5}})
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as first:
        first.sendall(post_chat())
        upstream.wait_received()
        answer = ask(gateway, model="hasty")
        trace = gateway.trace()

        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        assert (trace.outcome, trace.error, trace.attempts) == ("timeout", "total_timeout", [])
        assert gateway.state.live.pools["up"].waiting == 0
        assert len(upstream.received) == 1


def test_a_table_that_serves_nothing_is_not_ready_and_the_process_lives(
    upstream: ScriptedUpstream, tmp_path: Path
):
    with running_gateway(tmp_path, {**config_for(upstream.base_url), "routes": []}) as gateway:
        ready = httpx.get(f"{gateway.url}/readyz")

        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert ready.json()["why"] == "the table has no routes"
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
