"""What frames a message says nothing else: trailers name nothing, an upgrade is not granted, all of it has a bound."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.data_plane.protocol import MAX_HEAD_BYTES
from tests.support.request_path import (
    ROUTE,
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    DONE,
    Script,
    ScriptedUpstream,
    completion,
    delta,
    event,
    sends,
    stream_events,
)

BODY = json.dumps(chat()).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


def read_answer(connection: socket.socket) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer


def test_a_trailer_is_no_header(gateway: RunningGateway, upstream: ScriptedUpstream):
    with gateway.connect() as connection:
        connection.sendall(CHUNKED + b"x-unknown: 1\r\nx-tracetune-session: smuggled\r\n\r\n")
        assert read_answer(connection).status == 200

    assert upstream.received[0].header("x-unknown") is None
    assert gateway.trace().session != "smuggled"


def flood(connection: socket.socket, pieces: Iterable[bytes]) -> int:
    """The bytes that the gateway takes of *pieces* before it closes."""
    taken = 0
    try:
        for piece in pieces:
            connection.sendall(piece)
            taken += len(piece)
    except OSError:
        pass  # it closed, as it should
    return taken


FLOODS = {
    "many trailers": b"x-trailer: " + b"x" * 1000 + b"\r\n",
    "one endless trailer": b"x" * 1000,
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/nothing", "/api/feedback"])
@pytest.mark.parametrize("name", FLOODS)
def test_trailers_without_end_are_refused_whoever_sends_them(gateway: RunningGateway, name: str, path: str):
    most = 50 * 1024 * 1024
    with gateway.connect() as connection:
        connection.sendall(CHUNKED.replace(b"/v1/chat/completions", path.encode()) + b"x-first: ")
        taken = flood(connection, (FLOODS[name] * 64 for _ in range(most // (64 * len(FLOODS[name])))))

    assert taken < most / 2
    assert gateway.state.in_flight == 0


def test_chunks_of_a_byte_each_are_no_trailers(gateway: RunningGateway, upstream: ScriptedUpstream):
    text = "x" * MAX_HEAD_BYTES
    body = json.dumps({"model": ROUTE, "messages": [], "pad": text}).encode()
    with gateway.connect() as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert read_answer(connection).status == 200

    assert upstream.received[0].json()["pad"] == text


@pytest.mark.parametrize("split", [0, 1, 300], ids=["at once", "the body late", "in its middle"])
def test_an_upgrade_is_not_granted_and_costs_nothing(
    gateway: RunningGateway, upstream: ScriptedUpstream, split: int
):
    head = HEAD + H2C + b"content-length: %d\r\n\r\n" % len(BODY)
    cut = len(head) + split - 1 if split < 2 else len(head) + 20
    with gateway.connect() as connection:
        for _ in range(2):
            for part in (head + BODY)[:cut], (head + BODY)[cut:]:
                connection.sendall(part)
            assert read_answer(connection).status == 200
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n" + H2C + b"\r\n")
        assert read_answer(connection).status == 200

    assert [received.json()["messages"] for received in upstream.received] == [chat()["messages"]] * 2
    assert {received.header("upgrade") for received in upstream.received} == {None}


def test_upgrades_sent_ahead_are_answered_in_order(gateway: RunningGateway, upstream: ScriptedUpstream):
    requests = [post_bytes(json.dumps(chat(user=str(n))).encode(), "/v1/chat/completions") for n in range(3)]
    with gateway.connect() as connection:
        connection.sendall(b"".join(request.replace(b"\r\n", b"\r\n" + H2C, 1) for request in requests))
        # One reader for all of them: answers that arrive together are in its buffer together.
        reader = connection.makefile("rb")
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK\r\n") < len(requests) or not answers.endswith(b"}"):
            more = reader.read1()
            assert more, "the connection ended"
            answers += more

    assert [received.json()["user"] for received in upstream.received] == ["0", "1", "2"]


REFUSED = {
    "415": ("/v1/chat/completions", b"text/plain", 10),
    "413": ("/v1/chat/completions", b"application/json", 10**9),
    "404": ("/v1/batches", b"application/json", 10),
    "413 of an upload": ("/v1/audio/speech", b"audio/mpeg", 10**15),
}


@pytest.mark.parametrize("status", REFUSED)
def test_a_client_that_waits_for_leave_is_not_left_with_a_body_that_it_never_sends(
    upstream: ScriptedUpstream, tmp_path: Path, status: str
):
    """What it sends next would be taken for the body."""
    path, kind, length = REFUSED[status]
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n"
    config = config_for(upstream.base_url, default=True, passthrough=["audio"])
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as connection:
        connection.sendall(head.encode() + b"content-type: " + kind + b"\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece

    assert answer.startswith(f"HTTP/1.1 {status[:3]} ".encode())
    assert b"connection: close" in answer


def test_a_tunnel_is_refused(gateway: RunningGateway):
    with gateway.connect() as connection:
        connection.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n")
        assert read_answer(connection).status == 400


def chunked_answer(trailers: bytes, *events: bytes) -> Script:
    kind = b"text/event-stream" if events else b"application/json"
    chunks = events or (json.dumps(completion()).encode(),)
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    return sends(head + body + b"0\r\n" + trailers + b"\r\n", then="hang")


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("events", [(), tuple(stream_events(["a"]))], ids=["buffered", "streamed"])
def test_a_trailer_of_the_upstream_is_no_header(
    gateway: RunningGateway, upstream: ScriptedUpstream, events: tuple[bytes, ...]
):
    upstream.default = chunked_answer(b"x-unknown: 1\r\ncontent-encoding: gzip\r\n", *events)
    with gateway.connect() as connection:
        connection.sendall(post_bytes(BODY))
        answer = read_answer(connection)

    assert answer.status == 200
    assert answer.getheader("x-unknown") is None
    assert answer.getheader("content-encoding") is None


def test_trailers_without_end_break_the_upstreams_answer_off(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = chunked_answer(b"x-trailer: xxxxxxxx\r\n" * 100_000)
    with gateway.connect() as connection:
        connection.sendall(post_bytes(BODY))
        assert read_answer(connection).status == 502

    assert gateway.trace().attempts[0].error == "protocol"


def test_what_follows_a_whole_answer_does_not_delay_it(upstream: ScriptedUpstream, tmp_path: Path):
    """A server that counts characters in place of bytes announces less than it sends."""
    body = json.dumps(completion()).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    upstream.default = sends(head + body + b"}}", then="hang")
    config = config_for(upstream.base_url, timeouts={"headers_s": 30, "idle_s": 30})
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as connection:
        connection.settimeout(5)
        connection.sendall(post_bytes(BODY))
        assert read_answer(connection).status == 200
        connection.sendall(post_bytes(BODY))  # and its connection is used no more
        assert read_answer(connection).status == 200
        wait_until(lambda: upstream.connections == 2)


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_whole(gateway: RunningGateway, upstream: ScriptedUpstream, status: int):
    upstream.default = sends(b"HTTP/1.1 %d Nothing\r\nx-kept: 1\r\n\r\n" % status, then="hang")
    with gateway.connect() as connection:
        connection.sendall(post_bytes(BODY))
        answer = read_answer(connection)

    assert (answer.status, answer.getheader("x-kept")) == (status, "1")
    assert len(upstream.received) == 1


@pytest.mark.transports("native", "httpx")
def test_an_answer_framed_twice_is_refused(gateway: RunningGateway, upstream: ScriptedUpstream):
    events = event(delta("a")) + event(delta(finish="stop")) + DONE
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    upstream.default = sends(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events), then="hang")
    with gateway.connect() as connection:
        connection.sendall(post_bytes(BODY))
        assert read_answer(connection).status == 502
