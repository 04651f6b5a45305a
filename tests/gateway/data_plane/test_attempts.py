"""Before the first content byte a request may move: again, to another server, to a fallback. Each within bounds."""

from __future__ import annotations

import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.upstream.retries import BACKOFF_BASE_S, BUDGET_FLOOR
from tests.support.request_path import (
    UPSTREAM_DEFAULTS,
    RunningGateway,
    chat,
    config_for,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    Script,
    ScriptedUpstream,
    answers,
    answers_status,
    completion,
    event,
    hangs,
    sends,
    streams,
)

pytestmark = pytest.mark.transports("native", "httpx")


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(**fields), timeout=10)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


TRIED_AGAIN = {
    "408": answers_status(408),
    "409": answers_status(409),
    "429": answers_status(429, retry_after="0"),
    "429 without retry-after": answers_status(429),
    "500": answers_status(500),
    "503": answers_status(503),
    "closed at once": sends(b""),
    "reset": sends(b"", then="reset"),
    "half a head": sends(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "half a body": sends(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}"),
    "half a body until close": sends(b"HTTP/1.1 200 OK\r\n\r\n" + b'{"a": "half'),
    "an error in a 200": answers_status(200, {"error": {"message": "model crashed"}}),
}


@pytest.mark.parametrize("name", TRIED_AGAIN)
def test_what_passes_is_tried_again(gateway: RunningGateway, upstream: ScriptedUpstream, name: str):
    upstream.then(TRIED_AGAIN[name])
    answer = ask(gateway)
    trace = gateway.trace()

    assert (answer.status_code, answer.json()) == (200, completion())
    assert (trace.outcome, len(trace.attempts)) == ("ok", 2)
    assert trace.attempts[0].error is not None
    assert trace.attempts[1].error is None
    assert trace.attempts[1].started_ms >= trace.attempts[0].ended_ms


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_would_not_pass_is_not_tried_again(
    gateway: RunningGateway, upstream: ScriptedUpstream, status: int
):
    upstream.default = answers_status(status, None, ("x-request-id", "r"))
    answer = ask(gateway)

    assert answer.status_code == status
    assert answer.json() == {"error": {"message": f"scripted {status}", "type": "scripted"}}
    assert answer.headers["x-request-id"] == "r"
    assert len(upstream.received) == 1


@pytest.mark.transports("native", "httpx", "http2")
def test_the_last_response_passes_with_its_retry_after(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers_status(429, retry_after="60")
    answer = ask(gateway)
    trace = gateway.trace()

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert len(upstream.received) == 1, "a minute is more than a request waits"
    assert (trace.status, trace.outcome, trace.error) == (429, "upstream_error", "status_429")


@pytest.mark.transports("native")  # no transport has a part in it
def test_a_short_retry_after_is_honoured(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.then(answers_status(429, retry_after="1"))
    ask(gateway)
    first, second = gateway.trace().attempts

    assert second.started_ms - first.ended_ms >= 980


@pytest.mark.transports("native")  # no transport has a part in it
@pytest.mark.parametrize(("ahead_s", "asked"), [(2, 2), (60, 1)])
def test_a_date_to_retry_after_is_honoured_as_seconds_are(
    gateway: RunningGateway, upstream: ScriptedUpstream, ahead_s: int, asked: int
):
    date = formatdate(time.time() + ahead_s, usegmt=True)
    upstream.then(answers_status(503, retry_after=date))
    answer = ask(gateway)
    attempts = gateway.trace().attempts

    assert (answer.status_code, len(attempts)) == (200 if asked == 2 else 503, asked)
    if asked == 2:  # a date has whole seconds
        assert attempts[1].started_ms - attempts[0].ended_ms >= (ahead_s - 1) * 1000 - 100


@pytest.mark.transports("native")  # no transport has a part in it
def test_the_pauses_before_retries_grow(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers_status(500)
    ask(gateway)
    first, second, third = gateway.trace().attempts
    clock_ms = 5  # how early a timer may ring

    assert second.started_ms - first.ended_ms >= BACKOFF_BASE_S * 1000 / 2 - clock_ms
    assert third.started_ms - second.ended_ms >= BACKOFF_BASE_S * 1000 - clock_ms


def test_a_retry_after_that_is_a_date_is_honoured(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers_status(429, retry_after=formatdate(time.time() + 60, usegmt=True))

    assert ask(gateway).status_code == 429
    assert len(upstream.received) == 1, "a minute is more than a request waits"


@pytest.mark.transports("native")  # no transport has a part in it
def test_another_server_is_asked_without_the_pause_that_one_asks_for(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(429, retry_after="60")
    with ScriptedUpstream() as other:
        config = config_for([upstream.base_url, other.base_url], retries={"max": 1, "budget": 1.0})
        with running_gateway(tmp_path, config) as gateway:
            for _ in range(20):
                assert ask(gateway).status_code == 200

    assert len(upstream.received) == 1, "it asked to be left alone"


@pytest.mark.transports("native")  # no transport has a part in it
def test_retries_end_at_their_maximum(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(500)
    with running_gateway(tmp_path, config_for(upstream.base_url, retries={"max": 1})) as gateway:
        assert ask(gateway).status_code == 500

    assert len(upstream.received) == 2


@pytest.mark.transports("native")  # no transport has a part in it
@pytest.mark.parametrize(
    ("settings", "share"), [({}, 0.2), ({"budget": 0.1}, 0.1)], ids=["by default", "as set"]
)
def test_retries_stay_within_their_budget(
    upstream: ScriptedUpstream, tmp_path: Path, settings: dict[str, float], share: float
):
    upstream.default = answers_status(500)
    requests = 30
    with running_gateway(tmp_path, config_for(upstream.base_url, retries={"max": 1, **settings})) as gateway:
        for _ in range(requests):
            ask(gateway)

    assert len(upstream.received) - requests <= BUDGET_FLOOR + share * requests


def test_a_refused_connection_is_a_502_that_names_the_upstream(tmp_path: Path):
    with running_gateway(tmp_path, config_for(f"http://127.0.0.1:{free_port()}/v1")) as gateway:
        answer = ask(gateway)
        trace = gateway.trace()

    assert answer.status_code == 502
    assert "'up'" in answer.json()["error"]["message"]
    assert answer.headers["x-tracetune-trace-id"] == trace.trace_id
    assert [attempt.error for attempt in trace.attempts] == ["connect"] * 3
    assert trace.outcome == "upstream_error"


def test_an_unknown_name_and_an_untrusted_certificate_are_connect_errors(tmp_path: Path):
    config = config_for("http://no-such-host.invalid/v1", retries={"max": 0})
    with running_gateway(tmp_path, config) as gateway:
        assert ask(gateway).status_code == 502
        assert gateway.trace().attempts[0].error == "connect"


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (hangs(), 504, "headers_timeout"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", then="hang"), 504, "idle_timeout"),
        (sends(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), 502, "protocol"),
        (sends(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, then="hang"), 502, "protocol"),
        (sends(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), 502, "protocol"),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"), 502, "protocol"),
    ],
    ids=["silent", "stops in the body", "not http", "endless head", "upgrade", "two lengths"],
)
def test_what_takes_time_or_is_not_http_is_not_tried_again(
    gateway: RunningGateway, upstream: ScriptedUpstream, script: Script, status: int, code: str
):
    upstream.default = script
    answer = ask(gateway)
    trace = gateway.trace()

    assert answer.status_code == status
    assert [attempt.error for attempt in trace.attempts] == [code]
    assert trace.outcome == ("timeout" if status == 504 else "upstream_error")


@pytest.mark.transports("native")  # httpx reads to the end of a head before it looks at its beginning
def test_what_is_not_http_is_known_by_its_first_bytes(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = sends(b"SSH-2.0-OpenSSH_9.2\r\n", then="hang")

    assert ask(gateway).status_code == 502
    assert [attempt.error for attempt in gateway.trace().attempts] == ["protocol"]


def test_a_body_that_keeps_coming_is_not_idle(gateway: RunningGateway, upstream: ScriptedUpstream):
    async def script(received, reply) -> None:
        await reply.head(200, ("content-length", "22"))
        for _ in range(10):
            await reply.raw(b"  ")
            await reply.pause(0.15)
        await reply.raw(b"{}")

    upstream.default = script

    assert ask(gateway).status_code == 200
    assert gateway.trace().latency_ms > 1000


@pytest.mark.transports("native", "httpx", "http2")
def test_stale_connections_are_replaced_without_an_attempt(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    for count in range(1, 4):
        assert ask(gateway).status_code == 200
        upstream.drop_connections()
        assert len(gateway.traces(count)[-1].attempts) == 1


def test_a_connection_that_dies_as_it_is_used_again_is_replaced_once(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    ask(gateway)
    upstream.then(sends(b""))
    answer = ask(gateway)

    assert answer.status_code == 200
    assert (len(upstream.received), upstream.connections) == (3, 2)
    assert len(gateway.traces(2)[1].attempts) == 1


# --- several upstreams


def two_upstreams(one: str, other: str, **first: Any) -> dict[str, Any]:
    return {
        "upstreams": [
            {"name": "one", **UPSTREAM_DEFAULTS, "base_url": one, "retries": {"max": 0}, **first},
            {
                "name": "other",
                **UPSTREAM_DEFAULTS,
                "base_url": other,
                "retries": {"max": 0},
                "api_key": {"env": "OTHER_KEY"},
            },
        ],
        "routes": [
            {
                "model": "bot",
                "variants": [{"name": "stable", "upstream": "one", "snapshot": "bot-7f3a"}],
                "fallbacks": [{"upstream": "other", "model": "big"}],
            }
        ],
    }


@pytest.mark.transports("native")  # no transport has a part in it
@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_a_fallback_answers_where_the_variant_cannot(upstream: ScriptedUpstream, tmp_path: Path, status: int):
    upstream.default = answers_status(status)
    with ScriptedUpstream() as other:
        config = two_upstreams(upstream.base_url, other.base_url)
        with running_gateway(tmp_path, config, {"OTHER_KEY": "k2"}) as gateway:
            answer = ask(gateway)
            trace = gateway.trace()

        assert answer.json() == completion()
        assert answer.headers["x-tracetune-variant"] == "stable"
        assert (trace.variant, trace.upstream, trace.model) == ("stable", "other", "big")
        assert [attempt.upstream for attempt in trace.attempts] == ["one", "other"]
        assert other.received[0].json()["model"] == "big"
        assert other.received[0].header("authorization") == "Bearer k2"
        assert upstream.received[0].json()["model"] == "bot-7f3a"


@pytest.mark.transports("native")  # no transport has a part in it
def test_fallbacks_are_asked_in_their_order_and_retries_come_before_them(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(503)
    with ScriptedUpstream() as other:
        other.then(answers_status(503))
        config = two_upstreams(upstream.base_url, other.base_url, retries={"max": 1})
        config["routes"][0]["fallbacks"].append({"upstream": "other", "model": "bigger"})
        with running_gateway(tmp_path, config, {"OTHER_KEY": "k2"}) as gateway:
            assert ask(gateway).json() == completion()
            attempts = gateway.trace().attempts

    assert [(attempt.upstream, attempt.model) for attempt in attempts] == [
        ("one", "bot-7f3a"),
        ("one", "bot-7f3a"),
        ("other", "big"),
        ("other", "bigger"),
    ]


@pytest.mark.transports("native")  # no transport has a part in it
def test_a_bad_request_does_not_move(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(400)
    with ScriptedUpstream() as other:
        config = two_upstreams(upstream.base_url, other.base_url)
        with running_gateway(tmp_path, config, {"OTHER_KEY": "k2"}) as gateway:
            assert ask(gateway).status_code == 400

        assert other.received == []


@pytest.mark.transports("native")  # no transport has a part in it
def test_when_all_fail_the_client_gets_the_last_response_there_was(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(429, retry_after="7")
    config = two_upstreams(upstream.base_url, f"http://127.0.0.1:{free_port()}/v1")
    with running_gateway(tmp_path, config, {"OTHER_KEY": "k2"}) as gateway:
        answer = ask(gateway)
        record = gateway.records()[0]

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert record.response == answer.content


@pytest.mark.transports("native")  # no transport has a part in it
def test_an_empty_stream_moves_to_the_fallback(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = sends(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    with ScriptedUpstream() as other:
        other.default = streams(["from the other"])
        config = two_upstreams(upstream.base_url, other.base_url)
        with running_gateway(tmp_path, config, {"OTHER_KEY": "k2"}) as gateway:
            answer = ask(gateway, stream=True)

    assert b"from the other" in answer.content
    assert answer.content.endswith(event(b"[DONE]"))


@pytest.mark.transports("native")  # no transport has a part in it
def test_several_servers_share_the_load_and_a_dead_one_is_avoided(upstream: ScriptedUpstream, tmp_path: Path):
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with ScriptedUpstream() as other:
        config = config_for([upstream.base_url, other.base_url, dead], retries={"max": 1, "budget": 1.0})
        with running_gateway(tmp_path, config) as gateway:
            statuses = {ask(gateway).status_code for _ in range(40)}

        assert statuses == {200}
        assert upstream.received
        assert other.received


# --- concurrency limits


@pytest.mark.transports("native")  # no transport has a part in it
def test_a_full_queue_answers_429_at_once(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = hangs()
    config = config_for(upstream.base_url, limits={"concurrent": 1, "queue": 1})
    with running_gateway(tmp_path, config) as gateway:
        waiting = [threading.Thread(target=ask_and_forget, args=(gateway,)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        pool = gateway.state.live.pools["up"]
        wait_until(lambda: (pool.in_flight, pool.waiting) == (1, 1))
        started = time.monotonic()
        answer = ask(gateway)

        assert time.monotonic() - started < 1
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["code"] == "queue_full"
        assert "limits" in answer.json()["error"]["message"]
        assert gateway.trace().outcome == "rejected"
        assert len(upstream.received) == 1


def ask_and_forget(gateway: RunningGateway) -> None:
    try:
        httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=2)
    except httpx.TimeoutException:
        return


@pytest.mark.transports("native")  # no transport has a part in it
def test_whoever_waits_gets_its_turn(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, limits={"concurrent": 1, "queue": 10})
    upstream.default = slow_answer
    with running_gateway(tmp_path, config) as gateway:
        answers_got: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers_got.append(ask(gateway).status_code)) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert answers_got == [200] * 5
        assert gateway.state.live.pools["up"].in_flight == 0


async def slow_answer(received: Any, reply: Any) -> None:
    await reply.pause(0.05)
    await answers()(received, reply)
