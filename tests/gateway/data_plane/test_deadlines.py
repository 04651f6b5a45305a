"""Five deadlines, of an upstream or of a route: each ends what it is for, and says which setting it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.types import Timeouts
from gateway.data_plane.relay import BUFFERED_BYTES
from tests.support.request_path import RunningGateway, chat, config_for, post_chat, running_gateway
from tests.support.upstream import (
    Script,
    ScriptedUpstream,
    answers,
    answers_status,
    delta,
    event,
    hangs,
    never_connecting,
    streams_events,
)

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


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(**fields), timeout=10)


@pytest.mark.parametrize("of", ["upstream", "route"])
@pytest.mark.parametrize("phase", CASES)
def test_a_deadline_ends_its_phase(upstream: ScriptedUpstream, tmp_path: Path, phase: str, of: str):
    upstream.default, outcome = CASES[phase]
    short = {f"{phase}_s": 0.4}
    config = config_for(upstream.base_url, timeouts=LONG | (short if of == "upstream" else {}))
    config["routes"][0]["timeouts"] = short if of == "route" else {}
    with running_gateway(tmp_path, config) as gateway:
        started = time.monotonic()
        answer = ask(gateway, stream=True)
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
        answer = ask(gateway, stream=True)

    assert answer.content.endswith(event(b"[DONE]"))


@pytest.mark.parametrize("of", ["upstream", "route"])
def test_a_connection_has_its_deadline_and_is_tried_again(tmp_path: Path, of: str):
    short = {"connect_s": 0.4}
    with never_connecting() as base_url:
        timeouts = LONG | (short if of == "upstream" else {})
        config = config_for(base_url, timeouts=timeouts, retries={"max": 1})
        config["routes"][0]["timeouts"] = short if of == "route" else {}
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway)
            trace = gateway.trace()

    assert answer.status_code == 504
    assert "timeouts.connect_s" in answer.json()["error"]["message"]
    assert (trace.outcome, [attempt.error for attempt in trace.attempts]) == (
        "timeout",
        ["connect_timeout"] * 2,
    )
    assert 0.8 <= trace.latency_ms / 1000 < 4


def test_every_deadline_has_a_default_and_all_end_with_the_whole_request():
    by_default = Timeouts()
    phases = [by_default.connect_s, by_default.idle_s, by_default.headers_s, by_default.first_token_s]

    assert all(1 <= phase_s < by_default.total_s for phase_s in phases)
    assert by_default.total_s <= 600
    assert by_default.headers_s >= 240, "a whole answer of thousands of tokens takes minutes"


def test_a_head_comes_with_a_whole_answer_but_before_the_first_token_of_a_stream(
    upstream: ScriptedUpstream, tmp_path: Path
):
    async def thinks(received: Any, reply: Any) -> None:
        await reply.pause(1.2)
        await answers()(received, reply)

    upstream.default = thinks
    config = config_for(upstream.base_url, timeouts=LONG | {"first_token_s": 0.4})
    with running_gateway(tmp_path, config) as gateway:
        whole, streamed = ask(gateway), ask(gateway, stream=True)
        trace = gateway.traces(2)[1]

    assert whole.status_code == 200
    assert streamed.status_code == 504
    assert "timeouts.first_token_s" in streamed.json()["error"]["message"]
    assert (trace.outcome, trace.error) == ("timeout", "first_token_timeout")


def test_the_whole_request_is_bounded_while_a_connection_is_made(tmp_path: Path):
    with never_connecting() as base_url:
        config = config_for(base_url, timeouts=LONG | {"total_s": 0.4}, retries={"max": 2})
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway)
            trace = gateway.trace()

    assert answer.status_code == 504
    assert [attempt.error for attempt in trace.attempts] == ["total_timeout"]
    assert trace.latency_ms < 3000


def test_the_whole_request_is_bounded_over_all_its_attempts(upstream: ScriptedUpstream, tmp_path: Path):
    async def fails_slowly(received: Any, reply: Any) -> None:
        await reply.pause(0.5)
        await answers_status(500)(received, reply)

    upstream.default = fails_slowly
    config = config_for(
        upstream.base_url, timeouts=LONG | {"total_s": 0.9}, retries={"max": 5, "budget": 1.0}
    )
    with running_gateway(tmp_path, config) as gateway:
        ask(gateway)
        trace = gateway.trace()

    assert trace.latency_ms < 2000
    assert trace.attempts[-1].error == "total_timeout"


def test_a_retry_that_would_come_too_late_is_not_waited_for(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(429, retry_after="4")
    with running_gateway(tmp_path, config_for(upstream.base_url, timeouts=LONG | {"total_s": 3})) as gateway:
        answer = ask(gateway)

        assert (answer.status_code, answer.headers["retry-after"]) == (429, "4")
        assert gateway.trace().latency_ms < 2000


def test_the_whole_request_is_bounded_in_the_queue(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = hangs()
    config = config_for(upstream.base_url, timeouts=LONG, limits={"concurrent": 1})
    config["routes"].append({**config["routes"][0], "model": "hasty", "timeouts": {"total_s": 0.4}})
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as first:
        first.sendall(post_chat())
        upstream.wait_received()
        answer = ask(gateway, model="hasty")
        trace = gateway.trace()

    assert answer.status_code == 504
    assert "timeouts.total_s" in answer.json()["error"]["message"]
    assert (trace.outcome, trace.error, trace.attempts) == ("timeout", "total_timeout", [])
    assert trace.latency_ms < 3000


def test_a_fallback_has_the_deadlines_of_its_own_upstream(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(404)
    with ScriptedUpstream() as other:
        other.default = hangs()
        config = config_for(upstream.base_url, timeouts=LONG)
        config["upstreams"].append(
            {"name": "other", "base_url": other.base_url, "timeouts": LONG | {"headers_s": 0.4}}
        )
        config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "m"}]
        with running_gateway(tmp_path, config) as gateway:
            ask(gateway)
            attempts = gateway.trace().attempts

    assert [attempt.error for attempt in attempts] == ["status_4xx", "headers_timeout"]


def test_a_model_without_a_route_has_the_deadlines_of_the_default_upstream(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = hangs()
    config = config_for(upstream.base_url, default=True, timeouts=LONG | {"headers_s": 0.4})
    with running_gateway(tmp_path, config) as gateway:
        assert ask(gateway, model="any").status_code == 504
        assert gateway.trace().attempts[0].error == "headers_timeout"


def test_an_answer_too_large_to_be_held_may_not_stall_either(upstream: ScriptedUpstream, tmp_path: Path):
    half = b" " * 2 * BUFFERED_BYTES

    async def stalls(received: Any, reply: Any) -> None:
        await reply.head(200, ("content-type", "application/json"), ("content-length", str(2 * len(half))))
        await reply.raw(half)
        await reply.hang()

    upstream.default = stalls
    config = config_for(upstream.base_url, timeouts=LONG | {"idle_s": 0.4})
    with running_gateway(tmp_path, config) as gateway:
        with pytest.raises(httpx.RemoteProtocolError):
            ask(gateway)
        trace = gateway.trace()

    assert (trace.outcome, trace.error) == ("truncated", "idle_timeout")
    assert trace.latency_ms < 4000
