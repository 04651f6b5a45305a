"""Captured records as a worker makes them, and the recorder and shipper as processes of their own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gateway.traces.segments import Record
from gateway.traces.types import CapturedFeedback, CapturedRolloutEvent, CapturedTrace, PriceTerms

REPOSITORY = Path(__file__).parents[2]
REQUEST = {"model": "support-bot", "messages": [{"role": "user", "content": "Where is my order C4821?"}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "On its way."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
}


# What a captured and a finished trace have in common.
TRACE: dict[str, Any] = {
    "route": "support-bot",
    "variant": "stable",
    "snapshot": None,
    "rollout": None,
    "propensity": 1.0,
    "client": "",
    "session": "s1",
    "subject": None,
    "upstream": "up",
    "model": "m",
    "endpoint": "/v1/chat/completions",
    "stream": False,
    "status": 200,
    "outcome": "ok",
    "latency_ms": 12.5,
    "ttft_ms": None,
    "tags": {},
    "table_hash": "abc",
    "traceparent": None,
}


def captured_trace(trace_id: str = "t1", **changes: Any) -> CapturedTrace:
    values: dict[str, Any] = {
        **TRACE,
        "trace_id": trace_id,
        "started_at_us": time.time_ns() // 1000,
        "attempts": [],
        "capture": "full",
        "price": PriceTerms(input=1.0, output=2.0),
        "machine_cost_usd": None,
    }
    return CapturedTrace(**{**values, **changes})


def captured_feedback(feedback_id: str = "f1", **changes: Any) -> CapturedFeedback:
    values: dict[str, Any] = {
        "feedback_id": feedback_id,
        "trace_id": "t1",
        "session": None,
        "client": "",
        "kind": "rating",
        "value": 1.0,
        "text": None,
        "created_at_us": time.time_ns() // 1000,
    }
    return CapturedFeedback(**{**values, **changes})


def captured_event(version: int = 1) -> CapturedRolloutEvent:
    return CapturedRolloutEvent(
        rollout="r1",
        route="support-bot",
        version=version,
        event="started",
        snapshot="support-bot-1",
        at_us=time.time_ns() // 1000,
        who="me",
        why="it is better",
        evidence={"table": []},
    )


def record(captured: Any, request: Any = b"", response: Any = b"", **changes: Any) -> Record:
    def as_bytes(body: Any) -> bytes:
        return body if isinstance(body, bytes) else json.dumps(body).encode()

    values = {"captured": captured, "meta": b"", "bodies_left_out": False, "end": 0, **changes}
    return Record(request=as_bytes(request), response=as_bytes(response), **values)


@contextlib.contextmanager
def running(module: str, config_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m gateway.traces.<module>`, killed at the end of the block if it still runs."""
    process = start(module, config_path)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def start(module: str, config_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"gateway.traces.{module}", "--config", str(config_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGTERM; the exit code and what it logged."""
    process.send_signal(signal.SIGTERM)
    _, logged = process.communicate(timeout=10)
    return process.returncode, logged


def wait_until(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    """The first true value of *condition*. Raises AssertionError after *timeout_s*."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")
