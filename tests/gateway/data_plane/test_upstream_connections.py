"""However a server frames, says more than it was asked, or closes: no answer is another one's, none is half."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.upstream import pool
from gateway.upstream.channel import MAX_HEAD_BYTES, Channel
from tests.support.fuzz import living
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
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
    completion,
    sends,
    stream_events,
    streams_events,
)

pytestmark = pytest.mark.transports("native", "httpx")
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
BODY = b'{"a": 1}'
WHOLE = OK + b"content-length: 8\r\n\r\n" + BODY


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(**fields), timeout=10)


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 20):
            data += piece
    return data


def says(*packets: bytes, gap_s: float = 0.0, then: str = "stay") -> Script:
    """These packets; then the connection stays open for the next request, or is "reset"."""

    async def script(received: Received, reply: Reply) -> None:
        for packet in packets:
            await reply.raw(packet)
            await reply.pause(gap_s)
        if then == "reset":
            reply.reset()

    return script


@pytest.mark.parametrize(
    "answer",
    [OK + b"connection: close\r\ncontent-length: 8\r\n\r\n" + BODY, WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0")],
    ids=["connection: close", "HTTP/1.0"],
)
def test_a_connection_that_its_server_will_close_is_used_no_more(
    gateway: RunningGateway, upstream: ScriptedUpstream, answer: bytes
):
    upstream.default = says(answer)
    for _ in range(2):
        assert ask(gateway).content == BODY

    assert upstream.connections == 2
    assert [len(trace.attempts) for trace in gateway.traces(2)] == [1, 1]


@pytest.mark.transports("native")  # httpx says nothing of a head until it has all of it
def test_a_kept_connection_that_dies_in_its_answer_is_a_failed_attempt(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    ask(gateway)
    upstream.then(sends(b"HTTP/1.1 200 OK\r\nconte"))

    assert ask(gateway).json() == completion()
    assert [attempt.error for attempt in gateway.traces(2)[1].attempts] == ["disconnected", None]


@pytest.mark.parametrize(
    "unasked",
    [
        says(WHOLE + WHOLE.replace(b"1}", b"2}")),
        says(WHOLE + b"H"),
        says(WHOLE + b"\0 and more"),
        says(WHOLE, b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n", gap_s=0.1),
    ],
    ids=["a second answer at once", "its first byte", "garbage", "a farewell"],
)
def test_what_a_server_says_unasked_answers_no_request(
    gateway: RunningGateway, upstream: ScriptedUpstream, unasked: Script
):
    upstream.then(unasked)
    assert ask(gateway).content == BODY
    time.sleep(0.3)  # it is all there when the connection could be used again

    assert ask(gateway).json() == completion()
    assert upstream.connections == 2
    assert [len(trace.attempts) for trace in gateway.traces(2)] == [1, 1]


def test_a_body_until_the_connections_end_is_not_whole_when_it_was_reset(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.then(says(OK + b"\r\n" + BODY, gap_s=0.2, then="reset"))

    assert ask(gateway).json() == completion()
    assert [attempt.error for attempt in gateway.trace().attempts] == ["disconnected", None]


def test_trailers_are_no_headers(gateway: RunningGateway, upstream: ScriptedUpstream):
    chunks = b"8\r\n" + BODY + b"\r\n0\r\nx-late: 1\r\ncontent-type: text/evil\r\n\r\n"
    upstream.default = says(CHUNKED + chunks)
    for _ in range(2):
        answer = ask(gateway)
        assert (answer.status_code, answer.content) == (200, BODY)
        assert answer.headers["content-type"] == "application/json"
        assert "x-late" not in answer.headers
        gateway.wait_idle(1)

    assert upstream.connections == 1


LONG = b"x: " + b"y" * MAX_HEAD_BYTES + b"\r\n"


@pytest.mark.parametrize(
    "script",
    [
        says(OK + LONG + b"content-length: 8\r\n\r\n" + BODY),
        sends(CHUNKED + b"8\r\n" + BODY + b"\r\n0\r\nx: " + b"y" * 600_000, then="hang"),
    ],
    ids=["a head that came at once", "trailers without an end"],
)
def test_headers_and_trailers_are_bounded(
    gateway: RunningGateway, upstream: ScriptedUpstream, script: Script
):
    upstream.default = script

    assert ask(gateway).status_code == 502
    assert {attempt.error for attempt in gateway.trace().attempts} == {"protocol"}


def test_what_is_large_but_no_header_is_not_held_against_the_head(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: " + b"y" * 30_000 + b"\r\n\r\n"
    text = b'{"text": "%b"}' % (b"y" * 300_000)
    body = OK + b"content-length: %d\r\n\r\n" % len(text) + text
    upstream.default = says(hint, hint, hint, body, gap_s=0.02)

    assert ask(gateway).content == text


@pytest.mark.transports("native")  # httpx looks for an answer when it has sent all
def test_an_answer_before_the_request_was_read_is_taken_and_ends_the_connection(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = config_for(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        body = json.dumps(chat(x="y" * 30_000_000)).encode()  # more than all buffers on the way hold
        with running_gateway(tmp_path, config) as gateway, gateway.connect() as client:
            sending = threading.Thread(target=client.sendall, args=(post_bytes(body),))
            sending.start()
            server, _ = listener.accept()
            with server:
                server.settimeout(5)
                assert server.recv(1000).startswith(b"POST /v1/chat/completions ")
                server.sendall(WHOLE)
                answer = client.recv(65536)
                sending.join()
                rest = read_to_end(server)

    assert len(rest) < len(body) - 1000, "what was left of the request is not sent any more"
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(BODY)


@pytest.mark.transports("native")  # httpx looks for an answer when it has sent all
def test_an_answer_of_a_server_that_resets_what_it_has_not_read_is_taken(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = config_for(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", retries={"max": 0})
        refusal = b"HTTP/1.1 413 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"

        def refuse() -> None:
            for _ in range(5):
                server, _ = listener.accept()
                with server:
                    server.recv(1000)
                    server.sendall(refusal)

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with running_gateway(tmp_path, config) as gateway:
            answered = [ask(gateway, x="y" * 20_000_000).status_code for _ in range(5)]
        refusing.join()

    assert answered == [413] * 5


def test_idle_connections_are_closed_after_a_while(
    gateway: RunningGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pool, "MAX_IDLE_S", 0.2)
    ask(gateway)
    idle = gateway.state.live.pools["up"].servers[0].idle
    wait_until(lambda: not idle)
    wait_until(lambda: upstream.open_connections == 0)


def test_no_more_than_the_bound_of_idle_connections_is_kept(
    gateway: RunningGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pool, "MAX_IDLE_CONNECTIONS", 2)

    async def waits_for_all(received: Received, reply: Reply) -> None:
        while len(upstream.received) < 5:
            await reply.pause(0.01)
        await answers()(received, reply)

    upstream.default = waits_for_all
    asking = [threading.Thread(target=ask, args=(gateway,)) for _ in range(5)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()

    assert upstream.connections == 5
    wait_until(lambda: upstream.open_connections == 2)


@pytest.mark.parametrize("then", ["end", "close", "reset", "hang"])
def test_nothing_is_left_of_a_stream_however_it_goes_on_after_its_end_mark(
    gateway: RunningGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, then: str
):
    monkeypatch.setattr(pool, "TAIL_S", 0.1)
    monkeypatch.setattr(pool, "MAX_IDLE_S", 0.1)
    upstream.default = streams_events(stream_events(["a"]), then=then)
    for _ in range(3):
        assert ask(gateway, stream=True).content.endswith(DONE)

    wait_until(lambda: upstream.open_connections == 0)
    wait_until(lambda: not living(Channel))
