"""On a connection whose head is known, each request is answered for what it says itself."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from gateway.data_plane.protocol import HOLD_S
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import ScriptedUpstream

PATH = "/v1/chat/completions"
TRACEPARENT = "traceparent: 00-%032x-00f067aa0ba902b7-01"


def exchange(gateway: RunningGateway, *requests: bytes) -> list[bytes]:
    """The answers' heads, one connection, one request after the other."""
    heads = []
    with gateway.connect() as connection:
        for request in requests:
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            heads.append(answer)
    return heads


def body(**fields: object) -> bytes:
    return json.dumps(chat(**fields)).encode()


def test_what_follows_a_known_head_is_answered_as_if_it_were_new(upstream: ScriptedUpstream, tmp_path: Path):
    def asks(data: bytes, a: int, session: str, number: int) -> bytes:
        return post_bytes(data, PATH, f"x-a: {a}", f"x-tracetune-session: {session}", TRACEPARENT % number)

    requests = [
        asks(body(user="a"), 1, "s1", 1),
        asks(body(user="bb"), 1, "s1", 2),
        asks(body(user="ccc"), 2, "s2", 3),
        asks(b"{", 2, "s2", 4),
        asks(body(user="d"), 2, "s3", 5),
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        asks(body(user="e"), 2, "s2", 6),
    ]
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        answers = exchange(gateway, *requests)
        traces = gateway.traces(6)
    parents = [(TRACEPARENT % number).partition(" ")[2] for number in (1, 2, 3, 5, 6)]

    assert [answer.split(b" ")[1] for answer in answers] == [b"200"] * 3 + [b"400"] + [b"200"] * 3
    assert [received.json()["user"] for received in upstream.received] == ["a", "bb", "ccc", "d", "e"]
    assert [received.header("x-a") for received in upstream.received] == ["1", "1", "2", "2", "2"]
    assert [received.header("traceparent") for received in upstream.received] == parents
    assert [trace.session for trace in traces if trace.status == 200] == ["s1", "s1", "s2", "s3", "s2"]
    assert [trace.traceparent for trace in traces if trace.status == 200] == parents
    assert len({trace.trace_id for trace in traces}) == 6


def test_a_key_that_is_taken_away_is_refused_on_a_connection_that_knows_it(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config = config_for(upstream.base_url)
    config["auth"] = {"keys": [{"name": "web", "key": {"env": "WEB"}}]}
    environ = {"WEB": "key-web"}
    request = post_bytes(body(), "/v1/chat/completions", "authorization: Bearer key-web")
    with running_gateway(tmp_path, config, environ) as gateway, gateway.connect() as connection:
        statuses = []
        for key in ("key-web", "key-web", "another-key"):
            environ["WEB"] = key
            live = gateway.state.live
            gateway.state.swap(live.config, live.table)
            connection.sendall(request)
            statuses.append(connection.recv(65536).split(b" ")[1])

    assert statuses == [b"200", b"200", b"401"]


def test_a_body_beyond_the_bound_is_refused_after_a_known_head_too(
    upstream: ScriptedUpstream, tmp_path: Path
):
    config = {**config_for(upstream.base_url), "listen": {"max_body_bytes": 1000}}
    with running_gateway(tmp_path, config) as gateway:
        answers = exchange(gateway, *(post_bytes(body(x="y" * size)) for size in (1, 1, 2000)))

    assert [answer.split(b" ")[1] for answer in answers] == [b"200", b"200", b"413"]


def send_apart(connection: socket.socket, request: bytes, pause_s: float) -> None:
    """As many clients do: the head in one packet, the body in another."""
    head, end, rest = request.partition(b"\r\n\r\n")
    connection.sendall(head + end)
    time.sleep(pause_s)
    connection.sendall(rest)


def knows(gateway: RunningGateway, connection: socket.socket, request: bytes) -> None:
    """Have *gateway* know the head of *request* on *connection*."""
    for _ in range(2):
        send_apart(connection, request, 0.02)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("pause_s", [0.02, HOLD_S + 0.3])
def test_a_body_that_comes_after_its_head_is_the_body_of_that_head(
    upstream: ScriptedUpstream, tmp_path: Path, pause_s: float
):
    sessions = [f"s{number}" for number in range(5)]
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway, gateway.connect() as connection:
        for session in sessions:
            data = body(user=session)
            send_apart(connection, post_bytes(data, PATH, f"x-tracetune-session: {session}"), pause_s)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        traces = gateway.traces(len(sessions))

    assert [received.json()["user"] for received in upstream.received] == sessions
    assert [trace.session for trace in traces] == sessions


def test_a_known_head_is_refused_although_no_body_follows(upstream: ScriptedUpstream, tmp_path: Path):
    config = {**config_for(upstream.base_url), "listen": {"max_body_bytes": 1000}}
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as connection:
        knows(gateway, connection, post_bytes(body()))
        connection.sendall(post_bytes(b"x" * 2000).removesuffix(b"x" * 2000))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_stays_away_is_a_408_after_a_known_head_too(upstream: ScriptedUpstream, tmp_path: Path):
    config = {**config_for(upstream.base_url), "listen": {"body_s": 0.3}}
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as connection:
        knows(gateway, connection, post_bytes(body()))
        connection.sendall(post_bytes(body()).removesuffix(body()))
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_worker_that_stops_between_a_head_and_its_body_answers(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway, gateway.connect() as connection:
        knows(gateway, connection, post_bytes(body()))
        connection.sendall(post_bytes(body()).removesuffix(body()))
        time.sleep(0.02)
        gateway.server.stop()
        time.sleep(0.2)
        connection.sendall(body())
        answer = connection.recv(65536)
        assert connection.recv(65536) == b""

    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_client_that_leaves_between_a_known_head_and_its_body_leaves_nothing(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        with gateway.connect() as connection:
            knows(gateway, connection, post_bytes(body()))
            connection.sendall(post_bytes(body()).removesuffix(body()))
        wait_until(lambda: not gateway.server.server_state.connections)
        assert gateway.state.in_flight == 0

    assert len(upstream.received) == 2
    assert caplog.text == ""
