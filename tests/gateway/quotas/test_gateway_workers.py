"""Two real workers of a gateway have one count for the limits of a key, and both report it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.support.control_gateway import ADMIN_KEY, YAML, Gateway, running

KEYS = """
auth:
  keys:
    - {{name: app, key: {{env: APP_KEY}}, limits: [{{per: month, requests: 6}}]}}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    secrets = {"TRACETUNE_ADMIN_KEY": ADMIN_KEY, "APP_KEY": "app-key"}
    yield from running(tmp_path_factory.mktemp("two"), YAML + KEYS, workers=2, **secrets)


def at_each_worker(gateway: Gateway, stack: ExitStack) -> list[httpx.Client]:
    """A client with a kept connection for each worker: the kernel picks one for each new connection."""
    found: dict[int, httpx.Client] = {}
    deadline = time.monotonic() + 20
    while set(found) != set(gateway.workers):
        assert time.monotonic() < deadline, "one worker takes all connections"
        client = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=10, trust_env=False))
        found.setdefault(client.get("/readyz").json()["worker"], client)
    return [found[index] for index in sorted(found)]


def ask(client: httpx.Client) -> int:
    # No upstream answers, and a request it is all the same.
    headers = {"authorization": "Bearer app-key"}
    body = {"model": "bot", "messages": [{"role": "user", "content": "hello"}]}
    return client.post("/v1/chat/completions", json=body, headers=headers).status_code


def used(client: httpx.Client) -> float:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    report = client.get("/api/limits", headers=headers).json()
    found: float = report[0]["windows"][0]["requests"]["used"]
    return found


def test_what_one_worker_admits_is_used_up_at_the_other(two: Gateway):
    with ExitStack() as stack:
        one, other = at_each_worker(two, stack)
        at_one = [ask(one) for _ in range(4)]
        at_the_other = [ask(other) for _ in range(4)]
        reported = [used(one), used(other)]

    assert at_one == [502] * 4
    assert at_the_other == [502] * 2 + [429] * 2
    assert reported == [6, 6]
