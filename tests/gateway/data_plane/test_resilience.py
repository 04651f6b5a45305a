"""Servers that fail are left alone, and a stream that is slow to begin is asked of a second one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.request_path import (
    UPSTREAM_DEFAULTS,
    RunningGateway,
    chat,
    config_for,
    post_chat,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    answers,
    answers_status,
    delta,
    event,
    hangs,
    sends,
    streams,
    streams_events,
)

EJECTION = {"base_s": 30, "consecutive": 3}


@pytest.fixture
def other() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(**fields), timeout=20)


def test_a_server_that_fails_is_asked_no_more_while_another_answers(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(500)
    servers = [upstream.base_url, other.base_url]
    config = config_for(servers, ejection=EJECTION, retries={"max": 2, "budget": 1.0})
    with running_gateway(tmp_path, config) as gateway:
        assert {ask(gateway).status_code for _ in range(40)} == {200}

    assert len(upstream.received) == 3
    assert len(other.received) == 40


FIRST_S = 0.4  # of a server that stalls
STALLS = {
    "before its head": hangs(),
    "before the first token": streams_events([event(delta("", role="assistant"))], then="hang"),
    "in its text": streams_events([event(delta("begun"))], then="hang"),
}


@pytest.mark.parametrize("stalls", STALLS)
def test_a_server_that_stalls_is_asked_no_more_while_another_answers(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path, stalls: str
):
    upstream.default, other.default = STALLS[stalls], streams(["a"])
    servers = [upstream.base_url, other.base_url]
    timeouts = {"headers_s": FIRST_S, "first_token_s": FIRST_S, "idle_s": FIRST_S}
    with running_gateway(tmp_path, config_for(servers, ejection=EJECTION, timeouts=timeouts)) as gateway:
        health = gateway.state.live.pools["up"].servers[0].health
        for _ in range(60):
            ask(gateway, stream=True)
            if not health.healthy:
                break
        assert [ask(gateway, stream=True).content.endswith(DONE) for _ in range(10)] == [True] * 10

    assert len(upstream.received) == EJECTION["consecutive"]


def test_a_server_that_asked_to_be_left_alone_is_while_another_answers(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(429, retry_after="30")
    with running_gateway(tmp_path, config_for([upstream.base_url, other.base_url])) as gateway:
        answered = [ask(gateway).status_code for _ in range(30)]
        assert gateway.state.live.pools["up"].servers[0].health.healthy

    assert len(upstream.received) == 1
    assert answered == [200] * 30


def test_a_trial_has_passed_when_its_answer_begins(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(500)
    ejection = {"base_s": 0.2, "consecutive": 1, "passes": 1}
    config = config_for(upstream.base_url, ejection=ejection, retries={"max": 0})
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as client:
        assert ask(gateway).status_code == 500
        health = gateway.state.live.pools["up"].servers[0].health
        wait_until(lambda: health.state(time.monotonic()) == "probing")
        upstream.default = streams_events([event(delta("begun"))], then="hang")
        client.sendall(post_chat(stream=True))

        wait_until(lambda: health.healthy)


def test_a_server_is_probed_back_in(upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path):
    upstream.then(*[answers_status(500)] * 3)
    servers = [upstream.base_url, other.base_url]
    ejection = {"base_s": 0.3, "consecutive": 3, "passes": 2}
    config = config_for(servers, ejection=ejection, retries={"max": 2, "budget": 1.0})
    with running_gateway(tmp_path, config) as gateway:
        wait_until(lambda: ask(gateway).status_code == 200 and len(upstream.received) == 3, 10)
        health = gateway.state.live.pools["up"].servers[0].health
        assert not health.healthy
        wait_until(lambda: ask(gateway).status_code == 200 and health.healthy, 10)

    assert len(upstream.received) >= 5


def test_the_only_server_is_asked_however_often_it_failed(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(500)
    config = config_for(upstream.base_url, ejection=EJECTION, retries={"max": 0})
    with running_gateway(tmp_path, config) as gateway:
        assert {ask(gateway).status_code for _ in range(10)} == {500}
        upstream.default = answers()
        assert ask(gateway).status_code == 200

    assert len(upstream.received) == 11


def test_with_a_fallback_an_upstream_that_is_down_is_passed_over_at_once(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(500)
    config = config_for(upstream.base_url, ejection=EJECTION, retries={"max": 0})
    config["upstreams"].append({"name": "other", "base_url": other.base_url})
    config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "m"}]
    with running_gateway(tmp_path, config) as gateway:
        assert {ask(gateway).status_code for _ in range(10)} == {200}
        last = gateway.traces(10)[-1]

    assert len(upstream.received) == 3
    assert len(other.received) == 10
    assert (last.variant, last.upstream, len(last.attempts)) == ("stable", "other", 1)


def test_the_health_of_servers_can_be_asked_for(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(500)
    config = config_for(upstream.base_url, ejection=EJECTION, retries={"max": 0})
    with running_gateway(tmp_path, config) as gateway:
        states = []
        for _ in range(4):
            states.append(httpx.get(f"{gateway.url}/api/upstreams").json()[0]["servers"][0])
            ask(gateway)
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
        assert httpx.get(f"{gateway.url}/readyz").status_code == 200

    assert [state["state"] for state in states] == ["healthy"] * 3 + ["ejected"]
    assert 20 < states[-1]["ejected_for_s"] <= 30


def test_more_requests_than_the_process_may_have_are_refused_at_once(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = hangs()
    config = {**config_for(upstream.base_url), "listen": {"concurrent": 1}}
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as first:
        first.sendall(post_chat())
        upstream.wait_received()
        answer = ask(gateway)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "listen.concurrent" in answer.json()["error"]["message"]
    assert len(upstream.received) == 1


def test_prompts_that_begin_alike_go_to_one_server(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    config = config_for([upstream.base_url, other.base_url], affinity="prefix")
    with running_gateway(tmp_path, config) as gateway:
        for number in range(40):
            instructions = {"role": "system", "content": f"You are number {number % 2}. " * 60}
            question = {"role": "user", "content": f"question {number}"}
            assert ask(gateway, messages=[instructions, question]).status_code == 200

    for server in (upstream, other):
        seen = [received.json()["messages"][0]["content"][:16] for received in server.received]
        assert len(seen) in {0, 20, 40}
        assert all(seen.count(each) == 20 for each in set(seen))


def test_a_stream_that_is_slow_to_begin_is_asked_of_another_server(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    upstream.default = other.default = streams(["a", "b"])
    servers = [upstream.base_url, other.base_url]
    config = config_for(servers, hedge={"budget": 0.2, "min_delay_s": 0.2})
    with running_gateway(tmp_path, config) as gateway:
        for _ in range(70):
            assert ask(gateway, stream=True).status_code == 200
        time.sleep(1.1)  # the quantile is looked at once a second
        upstream.default = hangs()
        started = time.monotonic()
        answered = [ask(gateway, stream=True).content for _ in range(8)]
        took_s = time.monotonic() - started
        hedged = [trace for trace in gateway.traces(78)[70:] if len(trace.attempts) == 2]
        pool = gateway.state.live.pools["up"]
        wait_until(lambda: pool.in_flight == 0 and all(server.outstanding == 0 for server in pool.servers))

    assert all(answer.endswith(DONE) for answer in answered)
    assert took_s < 10  # a request that waited for the hanging server would take a minute
    assert hedged
    for trace in hedged:
        assert trace.outcome == "ok"
        assert [attempt.error for attempt in trace.attempts] == ["overtaken", None]
    cancelled = [received for received in upstream.received if received.disconnected.is_set()]
    assert len(cancelled) == len(hedged)


def after(seconds: float, script: Script) -> Script:
    async def late(received: Received, reply: Reply) -> None:
        await reply.pause(seconds)
        await script(received, reply)

    return late


ANSWERS, DIES, REFUSES = streams(["a", "b"]), sends(b"HTTP/1.1 200"), answers_status(400)
FAILS, EMPTY = answers_status(503), streams_events([])
USUAL = 200  # requests that make those of the test, which are slow, the exception
# What the first and the second of two servers do, and those after them; the attempts that come of it.
TWO: dict[str, tuple[list[Script], list[str | None]]] = {
    "one refuses, one hangs": ([after(0.5, REFUSES), hangs()], ["status_4xx", "overtaken"]),
    "the first dies": ([after(0.5, DIES), after(0.5, ANSWERS)], ["disconnected", None]),
    "the first fails": ([after(0.5, FAILS), after(0.5, ANSWERS)], ["status_5xx", None]),
    "the first ends empty": ([after(0.5, EMPTY), after(0.5, ANSWERS)], ["no_finish_reason", None]),
    "the second dies": ([after(0.7, ANSWERS), DIES], ["disconnected", None]),
    "the second fails": ([after(0.7, ANSWERS), FAILS], ["status_5xx", None]),
    "both die": ([after(0.5, DIES), DIES, ANSWERS], ["disconnected", "disconnected", None]),
    "one dies, one hangs": ([after(0.5, DIES), hangs(), ANSWERS], ["disconnected", "headers_timeout", None]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.transports("native", "httpx")
def test_of_two_that_are_asked_one_may_fail(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    turns: deque[Script] = deque()

    async def in_turn(received: Received, reply: Reply) -> None:
        await (turns.popleft() if turns else ANSWERS)(received, reply)

    upstream.default = other.default = in_turn
    servers = [upstream.base_url, other.base_url]
    config = config_for(
        servers,
        hedge={"budget": 0.2, "min_delay_s": 0.2},
        ejection={"consecutive": 100, "min_requests": 1000},
        timeouts={"headers_s": 1.5, "first_token_s": 1.5},
    )
    config["upstreams"].append({"name": "last", **UPSTREAM_DEFAULTS, "base_url": other.base_url})
    config["routes"][0]["fallbacks"] = [{"upstream": "last", "model": "m"}]
    with running_gateway(tmp_path, config) as gateway:
        for _ in range(USUAL):
            assert ask(gateway, stream=True).status_code == 200
        time.sleep(1.1)  # the quantile is looked at once a second
        for count, (name, (scripts, attempts)) in enumerate(TWO.items(), USUAL + 1):
            turns.extend(scripts)
            started = time.monotonic()
            answer = ask(gateway, stream=True)
            trace = gateway.traces(count)[-1]
            assert (answer.status_code, not turns) == (400 if "refuses" in name else 200, True), name
            assert sorted(map(str, (attempt.error for attempt in trace.attempts))) == sorted(
                map(str, attempts)
            ), name
            assert time.monotonic() - started < 5, name
        pool = gateway.state.live.pools["up"]
        wait_until(lambda: pool.in_flight == 0 and all(server.outstanding == 0 for server in pool.servers))


def test_nobody_is_asked_twice_beyond_the_budget(
    upstream: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
):
    upstream.default = other.default = streams(["a", "b"])
    config = config_for([upstream.base_url, other.base_url], hedge={"budget": 0.02, "min_delay_s": 0.05})
    with running_gateway(tmp_path, config) as gateway:
        for _ in range(70):
            ask(gateway, stream=True)
        time.sleep(1.1)
        upstream.default = other.default = streams(["a"], gap_s=0.1)
        for _ in range(10):
            assert ask(gateway, stream=True).status_code == 200

        assert sum(len(trace.attempts) - 1 for trace in gateway.traces(80)) <= 0.02 * 80
