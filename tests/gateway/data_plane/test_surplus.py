"""A server that sends more than its answer: the answer stands, and nobody else gets the rest."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.support.request_path import chat, config_for, running_gateway
from tests.support.upstream import Received, Reply, ScriptedUpstream, completion, send_events, stream_events

pytestmark = pytest.mark.transports("native", "httpx")
GARBAGE = {"no HTTP": b"garbage", "half a head": b"HTTP/1.1 2", "an answer": b"HTTP/1.1 200 OK\r\n\r\n"}


@pytest.mark.parametrize("after", GARBAGE)
def test_what_follows_an_answer_neither_holds_it_back_nor_reaches_the_next_request(
    upstream: ScriptedUpstream, tmp_path: Path, after: str
):
    body = json.dumps(completion("first")).encode()

    async def script(received: Received, reply: Reply) -> None:
        length = ("content-length", str(len(body)))
        await reply.head(200, ("content-type", "application/json"), length)
        await reply.raw(body + GARBAGE[after])
        await reply.hang()

    upstream.then(script)
    with running_gateway(tmp_path, config_for(upstream.base_url, retries={"max": 0})) as gateway:
        answers = [httpx.post(f"{gateway.base_url}/chat/completions", json=chat()) for _ in range(2)]

    assert answers[0].content == body
    assert answers[1].json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("after", GARBAGE)
def test_what_follows_a_streams_end_does_not_reach_the_next_request(
    upstream: ScriptedUpstream, tmp_path: Path, after: str
):
    async def script(received: Received, reply: Reply) -> None:
        await send_events(reply, stream_events(["first"]), end=False)
        await reply.pause(0.05)  # the connection is given back as soon as the stream is whole
        await reply.raw(b"0\r\n\r\n" + GARBAGE[after])
        await reply.hang()

    upstream.then(script)
    with running_gateway(tmp_path, config_for(upstream.base_url, retries={"max": 0})) as gateway:
        first = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=True))
        assert upstream.received[0].disconnected.wait(2)
        second = httpx.post(f"{gateway.base_url}/chat/completions", json=chat())

    assert first.content == b"".join(stream_events(["first"]))
    assert second.json()["choices"][0]["message"]["content"] == "hello"
