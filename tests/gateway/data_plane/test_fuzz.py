"""Random bytes and mutated requests: no crash, no hang, no leak, no 500. `make fuzz` sends a hundred thousand."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.fuzz import (
    ONLY,
    PATIENCE_S,
    PIECES,
    REQUESTS,
    assert_none_failed,
    assert_nothing_is_left,
    chance_of,
    config,
    numbers,
    say_how_to_repeat,
)
from tests.support.fuzz_answers import sound
from tests.support.request_path import RunningGateway, chat, post_bytes, running_gateway
from tests.support.upstream import ScriptedUpstream, answers

AT_ONCE = 48
LISTEN = {
    "head_s": 0.3,
    "body_s": 0.3,
    "keep_alive_s": 0.5,
    "max_body_bytes": 50_000,
    "max_upload_bytes": 50_000,
}

pytestmark = pytest.mark.timeout(60 + REQUESTS // 20)


def post_json(body: dict[str, Any], path: str, *headers: str) -> bytes:
    return post_bytes(json.dumps(body).encode(), path, *headers)


USAGE = {"stream_options": {"include_usage": True}}
CORPUS = [
    post_json(chat(), "/v1/chat/completions"),
    post_json(chat(stream=True, **USAGE), "/v1/chat/completions"),
    post_json(chat(metadata={"session_id": "s"}, n=2), "/v1/chat/completions?a=b"),
    post_json({"model": "bot@stable", "prompt": "hi"}, "/v1/completions"),
    post_json({"model": "bot", "prompt": ["a", "b"], "stream": True}, "/v1/completions"),
    post_json({"model": "bot", "prompt": [1, 2], "stream": True, **USAGE}, "/v1/completions"),
    post_json({"model": "bot", "input": ["a", "b"]}, "/v1/embeddings"),
    post_json({"model": "bot", "input": [[1, 2], [3]], "encoding_format": "base64"}, "/v1/embeddings"),
    post_json({"model": "bot", "input": "x"}, "/v1/responses", "x-tracetune-tag-a: b"),
    post_json({"model": "bot", "input": [], "stream": True}, "/v1/responses"),
    post_bytes(b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n', "/v1/files"),
    post_bytes(b"{}", "/v1/chat/completions", "transfer-encoding: chunked"),
    post_bytes(b'{"trace_id": "t", "rating": 1}', "/api/feedback"),
    b"POST /v1/audio/speech HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /v1/responses/resp_1/cancel HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"GET /v1/responses/resp_1?stream=true&starting_after=1 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /v1/responses/resp_1/input_items HTTP/1.1\r\nhost: a\r\n\r\n",
    b"DELETE /v1/chat/completions/c-1 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /v1/models/bot HTTP/1.0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    b"DELETE /v1/files/a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n",
]


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
    """What comes back for *data*, sent in up to three packets. Now and then the client does not stay for it.

    Raises TimeoutError where that has no end.
    """
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
    finally:
        if chance.random() < 0.3:
            writer.transport.abort()
        writer.close()


async def fuzz(gateway: RunningGateway) -> tuple[Counter[bytes], list[str]]:
    """Statuses of the first answers, and what went wrong."""
    statuses: Counter[bytes] = Counter()
    failures: list[str] = []
    left = numbers(REQUESTS)

    async def some() -> None:
        for number in left:
            chance = chance_of(number)
            data = mutated(chance)
            try:
                answer = await send(gateway.port, data, chance)
            except TimeoutError:
                failures.append(f"case {number}: no end of what answers\n{data[:5000]!r}")
                continue
            statuses.update(line.split(b" ")[1] for line in [answer[:20]] if answer.startswith(b"HTTP/1.1 "))
            if b"HTTP/1.1 500" in answer:
                failures.append(f"case {number}:\n{data[:5000]!r}\nwas answered\n{answer[:2000]!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    return statuses, failures


def test_no_request_breaks_the_gateway(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    say_how_to_repeat("tests/gateway/data_plane/test_fuzz.py")
    upstream.default = sound
    with running_gateway(tmp_path, config(upstream.base_url, **LISTEN)) as gateway:
        statuses, failures = asyncio.run(fuzz(gateway))
        assert_none_failed(failures)
        upstream.default = answers()
        assert_nothing_is_left(gateway, caplog)

    assert ONLY is not None or {b"200", b"400", b"404", b"408"} <= set(statuses)
    assert ONLY is not None or statuses.total() > REQUESTS / 3
