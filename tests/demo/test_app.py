from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from demo.app import AppOptions, Report, run_app
from demo.frontier import Frontier
from demo.messages import SEED, truth
from gateway.traces.segments import SegmentReader
from gateway.traces.types import Captured, CapturedFeedback, CapturedTrace
from tests.support.request_path import RunningGateway, running_gateway, wait_until

MESSAGES = 40


@pytest.fixture
def frontier() -> Iterator[str]:
    """The stand-in upstream, with nearly no delay."""
    config = uvicorn.Config(
        Frontier(truth(SEED, 200), 0.005), host="127.0.0.1", port=0, log_level="critical", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 10)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(10)


def ticket_bot(base_url: str) -> dict[str, object]:
    return {
        "upstreams": [{"name": "frontier", "base_url": base_url, "retries": {"max": 0}}],
        "routes": [
            {
                "model": "ticket-bot",
                "variants": [{"name": "stable", "upstream": "frontier", "model": "frontier-large"}],
            }
        ],
    }


def captured(gateway: RunningGateway) -> list[Captured]:
    reader = SegmentReader(gateway.state.paths.segments)
    batches = [reader.read(path, 0) for path in reader.segments()]
    return [record.captured for batch in batches if batch for record in batch.records]


def options(base_url: str, **changes: object) -> AppOptions:
    return AppOptions(**{"base_url": base_url, "messages": MESSAGES, "agent_delay_s": 0.0, **changes})


async def test_every_message_is_a_session_of_its_own_and_what_agents_kept_is_reported(
    frontier: str, tmp_path: Path
):
    told: list[int] = []
    with running_gateway(tmp_path, ticket_bot(frontier)) as gateway:
        report = await run_app(
            options(gateway.base_url), progress=lambda report: told.append(report.finished)
        )
        records = captured(gateway)

    assert not report.errors
    assert report.answered == MESSAGES == len(report.latencies_s)
    assert 0 < report.streamed < MESSAGES
    assert report.kept + report.corrected + report.silent == MESSAGES
    assert min(report.kept, report.corrected, report.silent) > 0
    assert told == sorted(told)
    assert told[-1] == MESSAGES

    traces = [record for record in records if isinstance(record, CapturedTrace)]
    feedback = [record for record in records if isinstance(record, CapturedFeedback)]
    assert len({trace.session for trace in traces}) == len(traces) == MESSAGES
    assert {trace.tags["templates"] for trace in traces} == {"seen", "unseen"}
    assert {trace.stream for trace in traces} == {True, False}
    assert len(feedback) == report.kept + report.corrected
    clients = {trace.session: trace.client for trace in traces}
    for entry in feedback:
        assert clients[entry.session or ""] == entry.client
        assert json.loads(entry.text or "").keys() == {"intent", "order_id", "date", "priority"}


async def test_an_error_is_counted_and_the_app_goes_on(tmp_path: Path):
    with running_gateway(tmp_path, ticket_bot("http://127.0.0.1:9/v1")) as gateway:
        report = await run_app(options(gateway.base_url, messages=3, in_flight=3))
    assert report.answered == 0
    assert sum(report.errors.values()) == report.finished == 3
    assert report.latency_s(0.5) is None


async def test_a_gateway_that_is_not_there_is_an_error_like_others():
    report = await run_app(options("http://127.0.0.1:9/v1", messages=2, in_flight=2))
    assert report.errors == {"APIConnectionError": 2}


async def test_told_to_stop_it_finishes_what_is_in_flight(frontier: str, tmp_path: Path):
    stop = asyncio.Event()

    def stop_after_five(report: Report) -> None:
        if report.finished == 5:
            stop.set()

    with running_gateway(tmp_path, ticket_bot(frontier)) as gateway:
        report = await run_app(
            options(gateway.base_url, messages=None, in_flight=2), stop=stop, progress=stop_after_five
        )
        traces = [record for record in captured(gateway) if isinstance(record, CapturedTrace)]
    assert 5 <= report.answered <= 6
    assert len(traces) == report.answered
    assert report.kept + report.corrected + report.silent == report.answered


def test_the_command_prints_what_it_saw_as_json(frontier: str, tmp_path: Path):
    with running_gateway(tmp_path, ticket_bot(frontier)) as gateway:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "demo.app",
                "--base-url",
                gateway.base_url,
                "--messages",
                "5",
                "--skip",
                "10",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["answered"] == 5
    assert summary["errors"] == {}
    assert summary["latencies_s"]["p50"] > 0
