"""A secret that is kept in a file and changes there is in use soon, without a word in the configuration."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.watch import POLL_S
from tests.support.request_path import RunningGateway, chat, config_for, running_gateway, wait_until
from tests.support.upstream import Received, Reply, ScriptedUpstream, answers, answers_status

SLACK_S = 2.0  # on a busy machine


def rotated(path: Path, secret: str) -> None:
    """Replace the secret in *path*, as a mounted secret is."""
    draft = path.with_suffix(".draft")
    draft.write_text(f"{secret}\n")
    draft.rename(path)


def config(base_url: str, directory: Path) -> dict[str, Any]:
    made = config_for(base_url, api_key={"file": str(directory / "up.key")}, retries={"max": 0})
    made["auth"] = {"keys": [{"name": "web", "key": {"file": str(directory / "web.key")}}]}
    rotated(directory / "up.key", "up-1")
    rotated(directory / "web.key", "web-1")
    return made


def ask(client: httpx.Client, key: str = "web-1") -> int:
    return client.post(
        "/chat/completions", json=chat(), headers={"authorization": f"Bearer {key}"}
    ).status_code


def client_of(gateway: RunningGateway) -> httpx.Client:
    return httpx.Client(base_url=gateway.base_url, timeout=10)


class Upstream:
    """Takes the keys in `valid`; says of each request when it came and whether it was refused."""

    def __init__(self, scripted: ScriptedUpstream) -> None:
        self.valid = {"up-1"}
        self.refused: list[float] = []
        scripted.default = self.answer

    async def answer(self, received: Received, reply: Reply) -> None:
        key = (received.header("authorization") or "").removeprefix("Bearer ")
        if key in self.valid:
            await answers()(received, reply)
        else:
            self.refused.append(time.monotonic())
            await answers_status(401)(received, reply)


def test_under_traffic_an_upstreams_key_is_replaced_within_two_looks(
    upstream: ScriptedUpstream, tmp_path: Path
):
    keys, done = Upstream(upstream), threading.Event()
    statuses: list[int] = []

    def keep_asking(gateway: RunningGateway) -> None:
        with client_of(gateway) as client:
            while not done.is_set():
                statuses.append(ask(client))
                time.sleep(0.005)

    with running_gateway(tmp_path, config(upstream.base_url, tmp_path)) as gateway:
        asking = threading.Thread(target=keep_asking, args=(gateway,))
        asking.start()
        wait_until(lambda: len(statuses) > 5)
        rotated(tmp_path / "up.key", "up-2")
        keys.valid = {"up-2"}  # at once: an upstream that takes both for a while refuses nothing
        changed_at = time.monotonic()
        wait_until(lambda: len(statuses) > 5 and statuses[-5:] == [200] * 5 and "up-2" in told(upstream))
        done.set()
        asking.join()

    assert all(at < changed_at + 2 * POLL_S + SLACK_S for at in keys.refused)
    assert statuses.count(401) == len(keys.refused)


def told(upstream: ScriptedUpstream) -> str:
    return upstream.received[-1].header("authorization") or ""


def test_what_is_in_flight_finishes_on_the_key_that_it_came_under(upstream: ScriptedUpstream, tmp_path: Path):
    gate = threading.Event()

    async def waits(received: Received, reply: Reply) -> None:
        await asyncio.to_thread(gate.wait, 10)
        await answers()(received, reply)

    upstream.then(waits)
    statuses: list[int] = []
    with (
        running_gateway(tmp_path, config(upstream.base_url, tmp_path)) as gateway,
        client_of(gateway) as client,
    ):
        running = threading.Thread(target=lambda: statuses.append(ask(client)))
        running.start()
        upstream.wait_received()
        before = gateway.state.live
        rotated(tmp_path / "up.key", "up-2")
        rotated(tmp_path / "web.key", "web-2")
        wait_until(lambda: gateway.state.live is not before)
        gate.set()
        running.join()
        with client_of(gateway) as other:
            wait_until(lambda: ask(other, "web-2") == 200)

    assert statuses == [200]
    assert upstream.received[0].header("authorization") == "Bearer up-1"
    assert told(upstream) == "Bearer up-2"


def test_a_clients_key_is_replaced_on_a_connection_that_knows_it(upstream: ScriptedUpstream, tmp_path: Path):
    with (
        running_gateway(tmp_path, config(upstream.base_url, tmp_path)) as gateway,
        client_of(gateway) as client,
    ):
        assert [ask(client), ask(client), ask(client)] == [200] * 3
        rotated(tmp_path / "web.key", "web-2")
        wait_until(lambda: ask(client, "web-1") == 401)
        assert ask(client, "web-2") == 200


@pytest.mark.parametrize("meanwhile", ["", None], ids=["empty", "gone"])
def test_a_secret_that_is_not_there_for_a_while_is_in_use_until_there_is_another(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, meanwhile: str | None
):
    key = tmp_path / "web.key"
    with (
        running_gateway(tmp_path, config(upstream.base_url, tmp_path)) as gateway,
        client_of(gateway) as client,
    ):
        assert ask(client) == 200
        if meanwhile is None:
            key.unlink()
        else:
            key.write_text(meanwhile)
        wait_until(lambda: "the former configuration stays in force" in caplog.text)
        assert ask(client) == 200
        rotated(key, "web-2")
        wait_until(lambda: ask(client, "web-2") == 200)

    assert str(key) in caplog.text
    assert "web-1" not in caplog.text
    assert "web-2" not in caplog.text


def test_a_secret_that_a_new_configuration_names_before_it_is_there_is_waited_for(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    made = config(upstream.base_url, tmp_path)
    later = tmp_path / "later.key"
    with running_gateway(tmp_path, made) as gateway, client_of(gateway) as client:
        path = gateway.state.config_path
        path.write_text(path.read_text().replace(str(tmp_path / "web.key"), str(later)))
        wait_until(lambda: "the former configuration stays in force" in caplog.text)
        assert ask(client) == 200
        rotated(later, "web-3")
        wait_until(lambda: ask(client, "web-3") == 200)
