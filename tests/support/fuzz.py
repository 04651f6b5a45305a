"""What the fuzz runs have in common: cases that are functions of a seed and a number, and how bytes are mangled.

FUZZ_SEED and FUZZ_REQUESTS say which cases there are, FUZZ_ONLY=NUMBER that only this one is run.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.data_plane.exchange import Exchange
from gateway.upstream.channel import Channel
from gateway.upstream.pool import MAX_IDLE_CONNECTIONS
from tests.support.request_path import RunningGateway, chat, config_for, wait_until

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "4000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ONLY = int(os.environ["FUZZ_ONLY"]) if "FUZZ_ONLY" in os.environ else None
PATIENCE_S = 10.0  # the deadlines of the gateway under test are far shorter
MAX_SHOWN = 5  # failures
TIMEOUTS = {"connect_s": 1, "headers_s": 0.5, "first_token_s": 0.5, "idle_s": 0.5, "total_s": 2}
FAMILIES = [
    "audio",
    "images",
    "moderations",
    "files",
    "batches",
    "fine_tuning",
    "responses",
    "chat/completions",
]

PIECES = [
    b"\r\n", b"\r\n\r\n", b"\0", b"\xff\xfe", b"{", b"]", b'"', b"\\u0000", b"\\ud800", b"null", b"1e999", b"-1",
    b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"expect: 100-continue\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n", b"HTTP/1.1", b"HTTP/2.0", b"/../", b"%2e%2e", b"@", b" ", b"\t",
    b'"model": 7,', b'"stream": "yes",', b'"metadata": [],', b'"stream_options": 5,', b'"n": 1e30,', b"x" * 70_000,
    b"[" * 2_000, b"authorization: Bearer \xff\r\n", b"origin: http://evil.example\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


def chance_of(number: int) -> random.Random:
    """All that is left to chance in the case of this number."""
    return random.Random(f"{SEED}/{number}")


def numbers(count: int) -> Iterator[int]:
    return iter(range(count)) if ONLY is None else iter([ONLY])


def mangled(data: bytes, chance: random.Random, times: tuple[int, ...] = (0, 1, 1, 2, 4)) -> bytes:
    for _ in range(chance.choice(times)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(1, 30))
        new = chance.choice((b"", chance.randbytes(end - at), data[at:end] * 2, chance.choice(PIECES)))
        data = data[:at] + new + data[end:]
    return data


def config(base_url: str, **listen: Any) -> dict[str, Any]:
    made = config_for(base_url, default=True, passthrough=FAMILIES, timeouts=TIMEOUTS, retries={"max": 0})
    return {**made, "listen": listen}


def say_how_to_repeat(test: str) -> None:
    """Shown by pytest where the test fails."""
    sys.stdout.write(f"To repeat it: FUZZ_SEED={SEED} FUZZ_REQUESTS={REQUESTS} pytest {test}\n")
    sys.stdout.write("One case alone: the same with FUZZ_ONLY=NUMBER\n")


def assert_none_failed(failures: list[str]) -> None:
    if failures:
        shown = "\n\n".join(failures[:MAX_SHOWN])
        pytest.fail(f"{len(failures)} cases of FUZZ_SEED={SEED} failed\n\n{shown}", pytrace=False)


def living(*kinds: type) -> list[Any]:
    """All objects of these types that something refers to.

    By their type: isinstance asks each object for its class, and other libraries' objects warn at that.
    """
    gc.collect()
    interval = sys.getswitchinterval()
    # A tuple that another thread is just building breaks when it is referred to from here. So that thread must not
    # go on before the list of all objects is gone.
    sys.setswitchinterval(60)
    try:
        time.sleep(0.05)  # whoever waits for its turn since before, has it
        return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
    finally:
        sys.setswitchinterval(interval)


def assert_nothing_is_left(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    pool = gateway.state.live.pools["up"]
    wait_until(lambda: gateway.state.in_flight == 0 and pool.in_flight == 0 and pool.waiting == 0, 10)
    wait_until(lambda: not gateway.server.server_state.connections, 10)
    # A connection that is off the list may still be at putting down what it held.
    wait_until(lambda: not living(Exchange), 10)
    assert sum(not channel.closed for channel in living(Channel)) <= MAX_IDLE_CONNECTIONS
    bugs = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert bugs == []
    after = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=5)
    assert (after.status_code, after.json()["object"]) == (200, "chat.completion"), after.content
