"""A configuration that changes under running requests: each finishes on the one it came under, the next has the new."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.request_path import RunningGateway, chat, config_for, running_gateway, wait_until
from tests.support.upstream import (
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    answers,
    answers_status,
    send_events,
    stream_events,
)

SECRETS = {"OLD": "key-of-old", "NEW": "key-of-new", "WEB": "client-web", "OTHER": "client-other"}


def config(base_url: str, side: str, client: str = "WEB") -> dict[str, Any]:
    """All that a request needs is of one *side*: upstream key, model and fixed header."""
    made = config_for(
        base_url,
        api_key={"env": side.upper()},
        headers=[{"name": "x-side", "value": side}],
        retries={"max": 1},
    )
    made["routes"][0]["variants"][0]["model"] = f"model-of-{side}"
    made["auth"] = {"keys": [{"name": client.lower(), "key": {"env": client}}]}
    return made


def reload(gateway: RunningGateway, made: dict[str, Any]) -> str:
    """Put *made* in force by writing the file; returns the hash of its table."""
    before = gateway.state.live
    gateway.state.config_path.write_text(yaml.safe_dump(made))
    wait_until(lambda: gateway.state.live is not before)
    return gateway.state.live.table.hash


def ask(gateway: RunningGateway, client: str = "WEB", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {SECRETS[client]}"}
    return httpx.post(
        f"{gateway.base_url}/chat/completions", json=chat(**fields), headers=headers, timeout=10
    )


def sides(received: Received) -> set[str]:
    """What the request that an upstream got is of."""
    said = (received.header("authorization"), received.header("x-side"), received.json()["model"])
    return {str(each).removeprefix("Bearer key-of-").removeprefix("model-of-") for each in said}


def waits_for(gate: threading.Event, then: Script) -> Script:
    async def script(received: Received, reply: Reply) -> None:
        await asyncio.to_thread(gate.wait, 10)
        await then(received, reply)

    return script


@pytest.fixture
def other() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_in_flight_is_answered_by_the_upstream_that_it_was_sent_to(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path, stream: bool
):
    gate, events = threading.Event(), stream_events(["one ", "two ", "three"])

    async def in_two_parts(received: Received, reply: Reply) -> None:
        await send_events(reply, events[:2], end=False)
        await asyncio.to_thread(gate.wait, 10)
        for each in events[2:]:
            await reply.chunk(each)
        await reply.end_chunks()

    upstream.default = in_two_parts if stream else waits_for(gate, answers("whole"))
    answered: list[httpx.Response] = []
    with running_gateway(tmp_path, config(upstream.base_url, "old"), SECRETS) as gateway:
        before = gateway.state.live.table.hash
        running = threading.Thread(target=lambda: answered.append(ask(gateway, stream=stream)))
        running.start()
        upstream.wait_received()
        after = reload(gateway, config(other.base_url, "new", client="OTHER"))
        later = ask(gateway, "OTHER")
        gate.set()
        running.join()
        by_hash = {trace.table_hash: trace for trace in gateway.traces(2)}

    assert (answered[0].status_code, later.status_code) == (200, 200)
    assert answered[0].content == b"".join(events) if stream else b"whole" in answered[0].content
    assert (by_hash[before].outcome, by_hash[before].model) == ("ok", "model-of-old")
    assert (by_hash[before].client, by_hash[after].client) == ("web", "other")
    assert [sides(each) for each in upstream.received] == [{"old"}]
    assert [sides(each) for each in other.received] == [{"new"}]


def test_a_retry_after_a_reload_goes_where_the_request_was_going(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    gate = threading.Event()
    upstream.then(waits_for(gate, answers_status(500)))
    answered: list[httpx.Response] = []
    with running_gateway(tmp_path, config(upstream.base_url, "old"), SECRETS) as gateway:
        running = threading.Thread(target=lambda: answered.append(ask(gateway)))
        running.start()
        upstream.wait_received()
        reload(gateway, config(other.base_url, "new", client="OTHER"))
        gate.set()
        running.join()

    assert answered[0].status_code == 200
    assert [sides(each) for each in upstream.received] == [{"old"}, {"old"}]
    assert other.received == []


def test_a_fallback_after_a_reload_is_the_one_that_the_request_had(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    gate = threading.Event()
    upstream.then(waits_for(gate, answers_status(500)))
    made = config(upstream.base_url, "old")
    made["upstreams"][0]["retries"] = {"max": 0}
    second = {
        "name": "second",
        "base_url": upstream.base_url,
        "headers": [{"name": "x-side", "value": "old"}],
    }
    made["upstreams"].append({**second, "api_key": {"env": "OLD"}})
    made["routes"][0]["fallbacks"] = [{"upstream": "second", "model": "model-of-old"}]
    answered: list[httpx.Response] = []
    with running_gateway(tmp_path, made, SECRETS) as gateway:
        running = threading.Thread(target=lambda: answered.append(ask(gateway)))
        running.start()
        upstream.wait_received()
        made["upstreams"][1]["base_url"] = other.base_url
        reload(gateway, made)
        gate.set()
        running.join()

    assert answered[0].status_code == 200
    assert [sides(each) for each in upstream.received] == [{"old"}, {"old"}]
    assert other.received == []


def test_no_request_is_of_two_configurations(upstream: ScriptedUpstream, tmp_path: Path):
    of_hash: dict[str, str] = {}
    done = threading.Event()
    statuses: list[int] = []

    def keep_asking(gateway: RunningGateway) -> None:
        with httpx.Client(headers={"authorization": f"Bearer {SECRETS['WEB']}"}) as client:
            while not done.is_set():
                answer = client.post(f"{gateway.base_url}/chat/completions", json=chat())
                statuses.append(answer.status_code)

    with running_gateway(tmp_path, config(upstream.base_url, "old"), SECRETS) as gateway:
        of_hash[gateway.state.live.table.hash] = "old"
        running = [threading.Thread(target=keep_asking, args=(gateway,)) for _ in range(2)]
        for each in running:
            each.start()
        for side in ("new", "old", "new"):
            of_hash[reload(gateway, config(upstream.base_url, side))] = side
            time.sleep(0.1)
        done.set()
        for each in running:
            each.join()
        traces = gateway.traces(len(statuses))

    assert set(statuses) == {200}
    assert all(len(sides(each)) == 1 for each in upstream.received)
    assert all(trace.model == f"model-of-{of_hash[trace.table_hash]}" for trace in traces)
    assert {trace.model for trace in traces} == {"model-of-old", "model-of-new"}


def test_connections_to_an_upstream_that_did_not_change_are_kept(upstream: ScriptedUpstream, tmp_path: Path):
    made = config(upstream.base_url, "old")
    with running_gateway(tmp_path, made, SECRETS) as gateway:
        ask(gateway)
        made["routes"][0]["variants"][0]["model"] = "model-of-another"
        reload(gateway, made)
        ask(gateway)
        made["upstreams"][0]["headers"] = []
        reload(gateway, made)
        ask(gateway)

    assert [each.connection for each in upstream.received] == [0, 0, 1]
