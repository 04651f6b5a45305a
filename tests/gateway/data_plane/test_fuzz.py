"""Random bytes and mutated requests: no crash, no hang, no leak, no 500. `make fuzz` sends a hundred thousand.

What is sent is a function of FUZZ_SEED, so that a failure can be repeated; FUZZ_REQUESTS says how many.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.data_plane.exchange import Exchange
from gateway.upstream.channel import Channel
from gateway.upstream.pool import MAX_IDLE_CONNECTIONS
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    ScriptedUpstream,
    answers,
    completion,
    send_events,
    stream_events,
)

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "4000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
AT_ONCE = 48
PATIENCE_S = 10.0  # the deadlines of the gateway under test are far shorter
LISTEN = {
    "head_s": 0.3,
    "body_s": 0.3,
    "keep_alive_s": 0.5,
    "max_body_bytes": 50_000,
    "max_upload_bytes": 50_000,
}
TIMEOUTS = {"connect_s": 1, "headers_s": 0.5, "first_token_s": 0.5, "idle_s": 0.5, "total_s": 2}

pytestmark = pytest.mark.timeout(60 + REQUESTS // 20)

CORPUS = [
    post_bytes(json.dumps(chat()).encode()),
    post_bytes(json.dumps(chat(stream=True, stream_options={"include_usage": True})).encode()),
    post_bytes(json.dumps(chat(metadata={"session_id": "s"}, n=2)).encode(), "/v1/chat/completions?a=b"),
    post_bytes(json.dumps({"model": "bot@stable", "prompt": "hi"}).encode(), "/v1/completions"),
    post_bytes(json.dumps({"model": "bot", "input": ["a", "b"]}).encode(), "/v1/embeddings"),
    post_bytes(b'{"model": "bot", "input": "x"}', "/v1/responses", "x-tracetune-tag-a: b"),
    post_bytes(b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n', "/v1/files"),
    post_bytes(b"{}", "/v1/chat/completions", "transfer-encoding: chunked"),
    post_bytes(b'{"trace_id": "t", "rating": 1}', "/api/feedback"),
    b"POST /v1/audio/speech HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /v1/models/bot HTTP/1.0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    b"DELETE /v1/files/a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\r\n\r\n", b"\0", b"\xff\xfe", b"{", b"]", b'"', b"\\u0000", b"\\ud800", b"null", b"1e999", b"-1",
    b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"expect: 100-continue\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n", b"HTTP/1.1", b"HTTP/2.0", b"/../", b"%2e%2e", b"@", b" ", b"\t",
    b'"model": 7,', b'"stream": "yes",', b'"metadata": [],', b'"stream_options": 5,', b'"n": 1e30,', b"x" * 70_000,
    b"[" * 2_000, b"authorization: Bearer \xff\r\n", b"origin: http://evil.example\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    """One request, or what is left of it."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(1, 400))
    data = chance.choice(CORPUS)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(1, 20))
        match chance.randrange(6):
            case 0:
                data = data[:at] + chance.choice(PIECES) + data[at:]
            case 1:
                data = data[:at] + chance.randbytes(end - at) + data[end:]
            case 2:
                data = data[:at] + data[end:]
            case 3:
                data = data[:end] + data[at:]
            case 4:
                data = data[:at] or b"P"
            case _:
                data += chance.choice(CORPUS)
    return data


async def send(port: int, data: bytes, chance: random.Random) -> bytes:
    """What comes back for *data*, sent in up to three packets. Now and then the client does not stay for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 2))))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            writer.write(data[start:end])
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            return b""
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()  # to its end: the gateway closes what is idle
    except ConnectionError:
        return b""
    except TimeoutError as error:
        raise AssertionError(f"no end of what answers {data[:3000]!r}") from error
    finally:
        if chance.random() < 0.3:
            writer.transport.abort()
        writer.close()


async def fuzz(gateway: RunningGateway, count: int, seed: int) -> Counter[bytes]:
    """Statuses of the first answers."""
    chance = random.Random(seed)
    statuses: Counter[bytes] = Counter()
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            answer = await send(gateway.port, mutated(chance), chance)
            statuses.update(line.split(b" ")[1] for line in [answer[:20]] if answer.startswith(b"HTTP/1.1 "))
            assert b"HTTP/1.1 500" not in answer, answer[:2000]

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    return statuses


def assert_nothing_is_left(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    pool = gateway.state.live.pools["up"]
    wait_until(lambda: gateway.state.in_flight == 0 and pool.in_flight == 0 and pool.waiting == 0, 10)
    wait_until(lambda: not gateway.server.server_state.connections, 10)
    gc.collect()
    objects: list[Any] = gc.get_objects()
    assert sum(type(thing) is Exchange for thing in objects) == 0
    # By its type: isinstance asks each object for its class, and other libraries' objects warn at that.
    channels = [thing for thing in objects if issubclass(type(thing), Channel)]
    assert sum(not channel.closed for channel in channels) <= MAX_IDLE_CONNECTIONS
    bugs = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert bugs == []
    assert httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=5).status_code == 200


def config(base_url: str) -> dict[str, Any]:
    passthrough = ["audio", "images", "moderations", "files", "batches", "fine_tuning"]
    made = config_for(base_url, default=True, passthrough=passthrough, timeouts=TIMEOUTS, retries={"max": 0})
    return {**made, "listen": LISTEN}


def test_no_request_breaks_the_gateway(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    upstream.default = answers()
    with running_gateway(tmp_path, config(upstream.base_url)) as gateway:
        statuses = asyncio.run(fuzz(gateway, REQUESTS, SEED))
        assert_nothing_is_left(gateway, caplog)

    assert {b"200", b"400", b"404", b"408"} <= set(statuses)
    assert statuses.total() > REQUESTS / 3


def mangled(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(1, 30))
        new = chance.choice((b"", chance.randbytes(end - at), data[at:end] * 2, chance.choice(PIECES)))
        data = data[:at] + new + data[end:]
    return data


async def misbehave(received: Received, reply: Reply, chance: random.Random) -> None:
    """An answer, buffered or streamed, of which any byte may be another, or the last."""
    body = json.dumps(completion("x" * chance.randrange(3000))).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    events = stream_events(["he", "l", "lo"], usage=chance.random() < 0.5)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in events) + b"0\r\n\r\n"
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    match chance.randrange(4):
        case 0:
            await send_events(reply, [mangled(each, chance) for each in events])
        case 1:
            await reply.raw(mangled(stream + chunks, chance))
        case 2:
            await reply.raw(mangled(head + body, chance))
        case _:
            await reply.raw(mangled(head, chance) + body)
    if chance.random() < 0.7:
        reply.close()
    else:
        await reply.hang()
    del received


async def ask(gateway: RunningGateway, count: int, chance: random.Random) -> Counter[str]:
    """How the answers ended, for *count* sound requests."""
    ends: Counter[str] = Counter()
    left = iter(range(count))

    async def some(client: httpx.AsyncClient) -> None:
        for _ in left:
            stream = chance.random() < 0.6
            try:
                answer = await client.post(f"{gateway.base_url}/chat/completions", json=chat(stream=stream))
            except (httpx.RemoteProtocolError, httpx.ReadError):
                ends["broken off"] += 1  # a large answer that did not come whole
                continue
            assert answer.status_code != 500, answer.content
            whole = not stream or answer.status_code != 200 or answer.content.rstrip().endswith(DONE.rstrip())
            ends[f"{answer.status_code} {'whole' if whole else 'not whole'}"] += 1

    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE // 3):
            group.create_task(some(client))
    return ends


@pytest.mark.transports("native", "httpx")
def test_no_answer_of_an_upstream_breaks_the_gateway(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    chance = random.Random(SEED)

    async def script(received: Received, reply: Reply) -> None:
        with contextlib.suppress(ConnectionError):
            await misbehave(received, reply, chance)

    upstream.default = script
    count = REQUESTS // 4
    with running_gateway(tmp_path, config(upstream.base_url)) as gateway:
        ends = asyncio.run(ask(gateway, count, random.Random(SEED)))
        outcomes = Counter(trace.outcome for trace in gateway.traces(count, 20))
        upstream.default = answers()
        assert_nothing_is_left(gateway, caplog)

    assert outcomes.total() == count
    assert {"ok", "truncated", "upstream_error"} <= set(outcomes)
    assert ends.total() == count
