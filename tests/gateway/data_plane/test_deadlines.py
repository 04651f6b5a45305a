"""Five deadlines, of an upstream or of a route: each ends what it is for, and says which setting it was."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.support.request_path import chat, config_for, running_gateway
from tests.support.upstream import Script, ScriptedUpstream, delta, event, hangs, streams_events

LONG = dict.fromkeys(("connect_s", "headers_s", "first_token_s", "idle_s", "total_s"), 20.0)
OPENING = event(delta("", role="assistant"))
BEGUN = event(delta("begun"))
DRIPS = streams_events([OPENING, *[BEGUN] * 200], gap_s=0.05)

CASES: dict[str, tuple[Script, str]] = {
    "headers": (hangs(), "timeout"),
    "first_token": (streams_events([OPENING], then="hang"), "timeout"),
    "idle": (streams_events([OPENING, BEGUN], then="hang"), "truncated"),
    "total": (DRIPS, "truncated"),
}


@pytest.mark.parametrize("of", ["upstream", "route"])
@pytest.mark.parametrize("phase", CASES)
def test_a_deadline_ends_its_phase(upstream: ScriptedUpstream, tmp_path: Path, phase: str, of: str):
    upstream.default, outcome = CASES[phase]
    short = {f"{phase}_s": 0.4}
    config = config_for(upstream.base_url, timeouts=LONG | (short if of == "upstream" else {}))
    config["routes"][0]["timeouts"] = short if of == "route" else {}
    with running_gateway(tmp_path, config) as gateway:
        started = time.monotonic()
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=True), timeout=10)
        took_s = time.monotonic() - started
        trace = gateway.trace()

    assert 0.4 <= took_s < 3
    assert (trace.outcome, trace.attempts[-1].error) == (outcome, f"{phase}_timeout")
    if outcome == "timeout":
        assert answer.status_code == 504
        assert f"timeouts.{phase}_s" in answer.json()["error"]["message"]
    else:
        assert b"stream_truncated" in answer.content
        assert b"[DONE]" not in answer.content


def test_a_route_may_also_be_more_patient(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = streams_events([BEGUN, event(delta(finish="stop")), event(b"[DONE]")], gap_s=0.6)
    config = config_for(upstream.base_url, timeouts=LONG | {"idle_s": 0.3})
    config["routes"][0]["timeouts"] = {"idle_s": 5}
    with running_gateway(tmp_path, config) as gateway:
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=True), timeout=10)

    assert answer.content.endswith(event(b"[DONE]"))
