"""SIGTERM: nobody new comes in, whoever is in is answered, and nothing is lost."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.request_path import chat, config_for, post_bytes, post_chat, wait_until
from tests.support.upstream import (
    Received,
    Reply,
    ScriptedUpstream,
    answers,
    answers_status,
    completion,
)
from tests.support.worker import Worker

DRAIN_S = 15  # nothing here may take that long
LEAVES_S = 8


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
def admin_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def worker(upstream: ScriptedUpstream, admin_port: int, tmp_path: Path) -> Iterator[Worker]:
    config: dict[str, Any] = config_for(upstream.base_url, limits={"concurrent": 1, "queue": 9})
    made = Worker(tmp_path, {**config, "listen": {"drain_s": DRAIN_S}, "admin_listen": {"port": admin_port}})
    try:
        yield made
    finally:
        made.close()


def connect(worker: Worker) -> socket.socket:
    return socket.create_connection(("127.0.0.1", worker.listener.getsockname()[1]), timeout=LEAVES_S)


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def started(worker: Worker, index: int = 0) -> subprocess.Popen[bytes]:
    process = worker.start(index)
    assert httpx.get(f"{worker.url}/healthz", timeout=20).status_code == 200
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """Returns when it has begun to stop, and what it does at once is done."""
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)


def is_answer(data: bytes) -> bool:
    head, _, body = data.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and json.loads(body) == completion()


async def slowly(received: Received, reply: Reply) -> None:
    await reply.pause(1.0)
    await answers()(received, reply)


def test_what_runs_and_what_waits_is_answered_and_its_connection_closed(
    worker: Worker, upstream: ScriptedUpstream
):
    process = started(worker)
    upstream.default = slowly
    with connect(worker) as first, connect(worker) as second:
        first.sendall(post_chat())
        upstream.wait_received()
        second.sendall(post_chat())
        time.sleep(0.2)
        stop(process)

        assert is_answer(read_to_end(first))
        assert is_answer(read_to_end(second))
        assert process.wait(LEAVES_S) == 0
    assert [trace.outcome for trace in worker.traces()] == ["ok", "ok"]


def test_what_pauses_before_a_retry_is_answered(worker: Worker, upstream: ScriptedUpstream):
    process = started(worker)
    upstream.then(answers_status(429, retry_after="1"))
    with connect(worker) as client:
        client.sendall(post_chat())
        upstream.wait_received()
        stop(process)

        assert is_answer(read_to_end(client))
        assert process.wait(LEAVES_S) == 0


@pytest.mark.parametrize("sent", [0, 20, -5], ids=["nothing", "half a head", "half a body"])
def test_what_has_begun_to_come_is_answered(worker: Worker, sent: int):
    process = started(worker)
    request = post_bytes(json.dumps(chat()).encode())
    with connect(worker) as client:
        client.sendall(request[:sent])
        time.sleep(0.2)
        stop(process)
        client.sendall(request[len(request[:sent]) :])

        assert is_answer(read_to_end(client))
        assert process.wait(LEAVES_S) == 0


def test_what_has_begun_to_come_for_the_control_app_is_answered(worker: Worker):
    process = started(worker)
    with connect(worker) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nho")
        time.sleep(0.2)
        stop(process)
        client.sendall(b"st: 127.0.0.1\r\n\r\n")

        assert read_to_end(client).startswith(b"HTTP/1.1 200 ")
        assert process.wait(LEAVES_S) == 0


def test_idle_connections_hold_up_nothing(worker: Worker):
    process = started(worker)
    with httpx.Client() as kept, connect(worker), connect(worker) as half:
        half.sendall(b"POST /v1/chat")
        assert kept.post(f"{worker.url}/v1/chat/completions", json=chat()).status_code == 200
        process.send_signal(signal.SIGTERM)

        assert process.wait(LEAVES_S) == 0


def test_meanwhile_the_next_worker_takes_all_that_comes_and_probes_tell_the_truth(
    worker: Worker, upstream: ScriptedUpstream, admin_port: int
):
    process = started(worker)
    release = threading.Event()

    async def when_released(received: Received, reply: Reply) -> None:
        while not release.is_set():
            await reply.pause(0.05)
        await answers()(received, reply)

    upstream.default = when_released
    admin = f"http://127.0.0.1:{admin_port}"
    wait_until(lambda: answers_at(admin), 10)
    with connect(worker) as running:
        running.sendall(post_chat())
        upstream.wait_received()
        worker.start(1)
        stop(process)

        ready = httpx.get(f"{admin}/readyz")
        assert (ready.status_code, ready.json()["why"]) == (503, "stopping")
        assert httpx.get(f"{admin}/healthz").status_code == 200
        assert {httpx.get(f"{worker.url}/readyz").json()["worker"] for _ in range(10)} == {1}
        release.set()
        assert is_answer(read_to_end(running))


def answers_at(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False
