"""The worker as a process: inherited socket, clean stops, nothing lost to SIGKILL, one line per error."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.config.load import load_config
from gateway.paths import paths_of
from tests.support.request_path import chat, config_for, wait_until
from tests.support.upstream import (
    ScriptedUpstream,
    answers,
    delta,
    event,
    hangs,
    stream_events,
    streams_events,
)
from tests.support.worker import REPOSITORY, Worker


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
def worker(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, {**config_for(upstream.base_url), "listen": {"drain_s": 3}})
    try:
        yield made
    finally:
        made.close()


def test_sigterm_lets_running_requests_finish_and_exits_cleanly(worker: Worker, upstream: ScriptedUpstream):
    process = worker.start()
    upstream.default = streams_events(stream_events(["a"] * 10), gap_s=0.1)
    answers_got: list[bytes] = []
    asking = threading.Thread(target=lambda: answers_got.append(worker.ask(stream=True).content))
    asking.start()
    upstream.wait_received()
    process.send_signal(signal.SIGTERM)
    asking.join()

    assert answers_got[0].endswith(event(b"[DONE]"))
    assert process.wait(5) == 0
    assert [trace.outcome for trace in worker.traces()] == ["ok"]


def test_what_outlasts_the_drain_is_told_so_and_recorded(worker: Worker, upstream: ScriptedUpstream):
    process = worker.start()
    upstream.default = streams_events([event(delta("x"))], then="hang")
    told: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: told.append(worker.ask(stream=True)))
    asking.start()
    upstream.wait_received()
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)

    assert process.wait(8) == 0
    asking.join()
    assert told[0].content.startswith(event(delta("x")))
    assert b"stream_truncated" in told[0].content
    assert b"[DONE]" not in told[0].content
    assert [(trace.outcome, trace.error) for trace in worker.traces()] == [("truncated", "shutdown")]


def test_what_the_drain_does_not_see_begin_may_be_asked_again(worker: Worker, upstream: ScriptedUpstream):
    process = worker.start()
    upstream.default = hangs()
    told: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: told.append(worker.ask()))
    asking.start()
    upstream.wait_received()
    process.send_signal(signal.SIGTERM)

    assert process.wait(8) == 0
    asking.join()
    assert (told[0].status_code, told[0].headers["retry-after"]) == (503, "1")
    traces = worker.traces()
    assert [(trace.outcome, trace.error, trace.status) for trace in traces] == [
        ("upstream_error", "shutdown", 503)
    ]


def test_sigkill_loses_no_finished_trace_and_the_next_worker_serves_on(
    worker: Worker, upstream: ScriptedUpstream
):
    process = worker.start()
    finished: list[str] = []
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            try:
                finished.append(worker.ask().headers["x-tracetune-trace-id"])
            except httpx.HTTPError:
                time.sleep(0.01)

    askers = [threading.Thread(target=ask_on) for _ in range(3)]
    for asker in askers:
        asker.start()
    wait_until(lambda: len(finished) > 30, 20)
    process.kill()
    process.wait()
    before = len(finished)
    worker.start(1)
    wait_until(lambda: len(finished) > before + 10, 20)
    stop.set()
    for asker in askers:
        asker.join()
    recorded = [trace.trace_id for trace in worker.traces()]

    assert set(finished) <= set(recorded)
    assert len(recorded) == len(set(recorded))


def test_no_secret_and_no_prompt_reaches_the_log(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, api_key={"env": "UP"})
    config["auth"] = {"keys": [{"name": "web", "key": {"env": "WEB"}}]}
    worker = Worker(tmp_path, config, UP="canary-upstream", WEB="canary-client")
    try:
        process = worker.start()
        headers = {"authorization": "Bearer canary-client"}
        url = f"{worker.url}/v1/chat/completions"
        for script in (answers(), hangs()):
            upstream.default = script
            try:
                httpx.post(url, json=chat(user="canary-prompt"), headers=headers, timeout=1)
            except httpx.TimeoutException:
                continue
        httpx.post(url, content=b"canary-prompt", headers={**headers, "content-type": "application/json"})
        httpx.post(url, json=chat(), headers={"authorization": "Bearer canary-wrong"})
        with socket.create_connection(("127.0.0.1", worker.listener.getsockname()[1])) as raw:
            raw.sendall(b"canary-prompt garbage\r\n\r\n")
            raw.recv(1000)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        text = worker.log.read_text()
        recorded = json.dumps([repr(trace) for trace in worker.traces()])
    finally:
        worker.close()

    assert "canary" not in text
    assert "canary-upstream" not in recorded
    assert "canary-client" not in recorded


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"listen": {"prot": 1}}, 2, "prot"),
        (
            {"upstreams": [{"name": "up", "base_url": "http://x/v1", "api_key": {"env": "NOT_SET"}}]},
            2,
            "NOT_SET",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line(
    upstream: ScriptedUpstream, tmp_path: Path, change: dict[str, Any], status: int, said: str
):
    path = tmp_path / "tracetune.yaml"
    path.write_text(yaml.safe_dump({**config_for(upstream.base_url), **change}))
    done = subprocess.run(
        [sys.executable, "-m", "gateway.worker", "--config", str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    shutil.rmtree(tmp_path / "data", ignore_errors=True)

    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_busy_port_is_one_line(upstream: ScriptedUpstream, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = {**config_for(upstream.base_url), "listen": {"port": taken.getsockname()[1]}}
        path = tmp_path / "tracetune.yaml"
        path.write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, "-m", "gateway.worker", "--config", str(path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    shutil.rmtree(paths_of(load_config(path)).segments, ignore_errors=True)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "in use" in done.stderr
