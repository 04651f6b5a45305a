"""HTTP/2 over TLS, one exchange on a connection at a time.

What is marked `transports(…, "http2")` in `data_plane/` speaks it without TLS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.load import load_config
from gateway.data_plane.relay import BUFFERED_BYTES
from gateway.probes import check_reachable
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_chat,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    answers,
    completion,
    delta,
    event,
    hangs,
    stream_events,
    streams_events,
)
from tests.support.upstream_http2 import Http2Reply, Http2Upstream, http2_tls

CERTIFICATE = Path(__file__).parents[2] / "support" / "tls" / "this_host.pem"
FIRST = event(delta("half an"))


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Http2Upstream]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with Http2Upstream(tls=http2_tls(CERTIFICATE)) as scripted:
        yield scripted


def config(upstream: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    timeouts = {"connect_s": 1, "headers_s": 1, "first_token_s": 1, "idle_s": 1, "total_s": 5}
    return config_for(upstream.base_url, transport="httpx", http2=True, timeouts=timeouts, **more)


@pytest.fixture
def gateway(upstream: Http2Upstream, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, config(upstream)) as running:
        yield running


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    url = f"{gateway.base_url}/chat/completions"
    return httpx.post(url, json=chat(**fields), timeout=10, trust_env=False)


def test_answers_buffered_and_streamed_on_one_connection(gateway: RunningGateway, upstream: Http2Upstream):
    big = "y" * 400_000  # more than one window
    assert ask(gateway, big=big).json() == completion()
    gateway.wait_idle(1)
    upstream.default = streams_events(stream_events(["a", "b"]))
    assert ask(gateway, stream=True).content == b"".join(stream_events(["a", "b"]))

    assert upstream.received[0].json()["big"] == big
    assert upstream.received[0].header("host") is None, "it is :authority there"
    assert upstream.connections == 1


def test_the_trace_is_there_when_the_last_byte_is(gateway: RunningGateway, upstream: Http2Upstream):
    body = b'{"text": "' + b"x" * 2 * BUFFERED_BYTES + b'"}'

    async def ends_late(received: Received, reply: Reply) -> None:
        await reply.head(200, ("content-type", "application/json"), ("content-length", str(len(body))))
        await reply.chunk(body)
        await reply.pause(0.3)
        await reply.end_chunks()

    upstream.default = ends_late
    with gateway.connect() as connection:
        connection.sendall(post_chat())
        answer = b""
        while not answer.endswith(body[-100:]):
            answer += connection.recv(1 << 20)

        assert gateway.traces(1, within_s=0)[0].outcome == "ok"
    assert answer.endswith(b"\r\n\r\n" + body)


def test_exchanges_at_the_same_time_have_each_their_connection(
    gateway: RunningGateway, upstream: Http2Upstream
):
    upstream.default = hangs()
    with gateway.connect() as one, gateway.connect() as other:
        for connection in (one, other):
            connection.sendall(post_chat())
        first, second = upstream.wait_received(1), upstream.wait_received(2)
        one.close()

        assert first.connection != second.connection
        wait_until(lambda: first.disconnected.is_set() or second.disconnected.is_set(), 2)
        assert not (first.disconnected.is_set() and second.disconnected.is_set())


def resets(*before: bytes) -> Script:
    async def script(received: Received, reply: Reply) -> None:
        if before:
            await reply.head(200, ("content-type", "text/event-stream"))
        for piece in before:
            await reply.chunk(piece)
            await reply.pause(0.05)
        reply.reset()

    return script


def closes() -> Script:
    async def script(received: Received, reply: Reply) -> None:
        reply.close()

    return script


@pytest.mark.parametrize("dies", [resets(), closes()], ids=["reset", "closed"])
def test_an_exchange_that_ends_without_an_answer_is_tried_again(
    gateway: RunningGateway, upstream: Http2Upstream, dies: Script
):
    upstream.then(dies)

    assert ask(gateway).json() == completion()
    assert [attempt.error for attempt in gateway.trace().attempts] == ["disconnected", None]


def test_a_stream_that_is_reset_is_truncated(gateway: RunningGateway, upstream: Http2Upstream):
    upstream.default = resets(FIRST)
    answer = ask(gateway, stream=True)

    assert answer.content.startswith(FIRST)
    assert b"stream_truncated" in answer.content
    assert (gateway.trace().outcome, gateway.trace().error) == ("truncated", "disconnected")


def test_a_server_that_goes_away_between_two_requests_costs_no_attempt(
    gateway: RunningGateway, upstream: Http2Upstream
):
    async def last(received: Received, reply: Reply) -> None:
        await answers()(received, reply)
        assert isinstance(reply, Http2Reply)
        await reply.go_away()

    upstream.then(last)
    assert ask(gateway).json() == completion()
    assert ask(gateway).json() == completion()

    assert upstream.connections == 2
    assert len(gateway.traces(2)[1].attempts) == 1


@pytest.mark.parametrize("phase", ["headers", "stream"])
def test_a_client_that_leaves_cancels_the_upstream(
    gateway: RunningGateway, upstream: Http2Upstream, phase: str
):
    upstream.default = hangs() if phase == "headers" else streams_events([FIRST], then="hang")
    with gateway.connect() as connection:
        connection.sendall(post_chat(stream=True))
        received = upstream.wait_received()
        if phase == "stream":
            assert connection.recv(65536)
    assert received.disconnected.wait(2)
    assert gateway.trace().outcome == "client_cancelled"


@pytest.mark.parametrize(("phase", "attempts"), [("headers", 1), ("body", 3)])
def test_a_breach_of_http2_is_a_protocol_error(
    gateway: RunningGateway, upstream: Http2Upstream, phase: str, attempts: int
):
    async def breaches(received: Received, reply: Reply) -> None:
        if phase == "body":
            await reply.head(200, ("content-type", "application/json"))
            await reply.pause(0.05)
        reply._writer.write(b"\0" * 9)  # data of stream 0, which has none
        await reply.hang()

    upstream.default = breaches
    assert ask(gateway).status_code == 502
    # Behind a head it is an answer broken off, which is asked for again.
    assert [attempt.error for attempt in gateway.trace().attempts] == ["protocol"] * attempts


def test_a_server_that_does_not_agree_is_spoken_to_in_http_1_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tls = http2_tls(CERTIFICATE)
    tls.set_alpn_protocols(["http/1.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with ScriptedUpstream(tls=tls) as upstream, running_gateway(tmp_path, config(upstream)) as gateway:
        assert ask(gateway).json() == completion()


def test_check_asks_in_http2_too(upstream: Http2Upstream, tmp_path: Path):
    path = tmp_path / "tracetune.yaml"
    path.write_text(json.dumps(config(upstream)))
    found = [each for each in check_reachable(load_config(path), {}) if "upstream" in each.what]

    assert [finding.state for finding in found] == ["ok"], found
