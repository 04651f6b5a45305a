"""A client that goes away cancels its upstream within a second, in every phase, and its partial trace is kept."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    post_chat,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    answers_status,
    delta,
    event,
    hangs,
    never_connecting,
    sends,
    streams_events,
)

pytestmark = pytest.mark.transports("native", "httpx")
WITHIN_S = 1.0


def slow(base_url: str, **upstream) -> dict:
    """No deadline interferes."""
    return config_for(base_url, timeouts={"headers_s": 20, "first_token_s": 20, "idle_s": 20}, **upstream)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data


PHASES: dict[str, tuple[Script, bytes]] = {
    "before the head": (hangs(), b""),
    "in a buffered body": (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", then="hang"), b""),
    "before the first token": (streams_events([event(delta("", role="assistant"))], then="hang"), b""),
    "in a stream": (streams_events([event(delta("begun"))], then="hang"), b"begun"),
}


@pytest.mark.parametrize("leave", ["close", "reset", "send no more"])
@pytest.mark.parametrize("phase", PHASES)
def test_the_upstream_is_cancelled(upstream: ScriptedUpstream, tmp_path: Path, phase: str, leave: str):
    upstream.default, seen = PHASES[phase]
    with running_gateway(tmp_path, slow(upstream.base_url)) as gateway:
        connection = gateway.connect()
        connection.sendall(post_chat(stream=True))
        received = upstream.wait_received()
        if seen:
            read_until(connection, seen)
        else:
            time.sleep(0.1)
        if leave == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        left_at = time.monotonic()
        if leave == "send no more":
            connection.shutdown(socket.SHUT_WR)  # what a close looks like from the other side
        else:
            connection.close()

        assert received.disconnected.wait(WITHIN_S + 1)
        assert received.disconnected_at - left_at <= WITHIN_S
        trace = gateway.trace()
        assert (trace.outcome, trace.status) == ("client_cancelled", 200 if seen else 499)
        assert trace.attempts[-1].error == "cancelled"
        assert seen in gateway.records()[0].response
        wait_until(lambda: gateway.state.live.pools["up"].in_flight == 0)
        assert gateway.state.in_flight == 0


def test_leaving_in_a_retry_pause_ends_it(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(429, retry_after="4")
    with running_gateway(tmp_path, slow(upstream.base_url)) as gateway:
        connection = gateway.connect()
        connection.sendall(post_chat())
        upstream.wait_received()
        time.sleep(0.1)
        connection.close()

        trace = gateway.traces(within_s=WITHIN_S)[0]
        assert trace.outcome == "client_cancelled"
        assert gateway.state.in_flight == 0
        assert len(upstream.received) == 1


@pytest.mark.transports("native")  # no transport has a part in it
def test_leaving_in_the_queue_gives_up_the_place(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = hangs()
    config = slow(upstream.base_url, limits={"concurrent": 1, "queue": 5})
    with running_gateway(tmp_path, config) as gateway:
        first, second = gateway.connect(), gateway.connect()
        first.sendall(post_chat())
        upstream.wait_received()
        second.sendall(post_chat())
        pool = gateway.state.live.pools["up"]
        wait_until(lambda: pool.waiting == 1)
        second.close()

        wait_until(lambda: pool.waiting == 0, WITHIN_S)
        assert gateway.trace().outcome == "client_cancelled"
        assert gateway.trace().attempts == []
        first.close()
        wait_until(lambda: pool.in_flight == 0)
        assert len(upstream.received) == 1


def test_leaving_while_a_connection_is_being_made_ends_it(tmp_path: Path):
    with never_connecting() as base_url:
        config = config_for(base_url, timeouts={"connect_s": 20}, retries={"max": 0})
        with running_gateway(tmp_path, config) as gateway:
            connection = gateway.connect()
            connection.sendall(post_chat())
            wait_until(lambda: gateway.state.in_flight == 1)
            time.sleep(0.1)
            connection.close()

            wait_until(lambda: gateway.state.in_flight == 0, WITHIN_S)
            assert gateway.trace().outcome == "client_cancelled"


@pytest.mark.transports("native")  # no transport has a part in it
def test_leaving_with_half_a_body_leaves_nothing_behind(gateway: RunningGateway, upstream: ScriptedUpstream):
    connection = gateway.connect()
    connection.sendall(post_chat()[:-5])
    wait_until(lambda: gateway.state.in_flight == 1)
    connection.close()

    wait_until(lambda: gateway.state.in_flight == 0, WITHIN_S)
    assert upstream.received == []


def test_one_client_that_leaves_disturbs_no_other(upstream: ScriptedUpstream, tmp_path: Path):
    events = [event(delta(str(number))) for number in range(20)]
    upstream.default = streams_events([*events, event(delta(finish="stop")), event(b"[DONE]")], gap_s=0.03)
    with running_gateway(tmp_path, slow(upstream.base_url)) as gateway:
        leaver = gateway.connect()
        leaver.sendall(post_chat(stream=True))
        read_until(leaver, events[0])
        stays = threading.Thread(target=leaver.close)
        stays.start()
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=True), timeout=10)
        stays.join()

        assert answer.content.endswith(event(b"[DONE]"))
        outcomes = sorted(trace.outcome for trace in gateway.traces(2))
    assert outcomes == ["client_cancelled", "ok"]


PIECE = event(delta("x" * 60_000))
PIECES = 800  # far more than the sockets on the way hold


async def floods(received: Received, reply: Reply) -> None:
    """24 MB of events, as fast as they are taken. Notes how far it came."""
    await reply.head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
    received.sent = 0  # type: ignore[attr-defined]
    for _ in range(PIECES):
        await reply.chunk(PIECE)
        received.sent += 1  # type: ignore[attr-defined]
    await reply.chunk(event(delta(finish="stop")) + event(b"[DONE]"))
    await reply.end_chunks()


@pytest.mark.transports("native", "httpx", "http2")
def test_a_slow_reader_holds_back_its_own_upstream_and_nobody_elses(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.then(floods)
    with running_gateway(tmp_path, slow(upstream.base_url)) as gateway:
        with socket.socket() as slow_reader:
            slow_reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow_reader.connect(("127.0.0.1", gateway.port))
            slow_reader.sendall(post_chat(stream=True))
            received = upstream.wait_received()
            wait_until(lambda: getattr(received, "sent", 0) > 0)
            time.sleep(1.0)
            held_at = received.sent  # type: ignore[attr-defined]
            time.sleep(0.5)

            assert received.sent == held_at < PIECES * 0.9  # type: ignore[attr-defined]
            answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=5)
            assert answer.status_code == 200

            slow_reader.settimeout(20)
            total = 0
            tail = b""
            while b"[DONE]" not in tail:
                piece = slow_reader.recv(1 << 20)
                assert piece
                total += len(piece)
                tail = (tail + piece)[-200:]
        assert total > PIECES * len(PIECE)


WHOLE_BYTES = 40_000_000


async def floods_at_once(received: Received, reply: Reply) -> None:
    """An answer that is no stream, as fast as it is taken. Notes how far it came."""
    received.sent = 0  # type: ignore[attr-defined]
    await reply.head(200, ("content-type", "audio/mpeg"), ("content-length", str(WHOLE_BYTES)))
    for _ in range(WHOLE_BYTES // 50_000):
        await reply.raw(b"x" * 50_000)
        received.sent += 50_000  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/speech"])
def test_a_slow_reader_of_a_large_answer_holds_back_its_own_upstream(
    upstream: ScriptedUpstream, tmp_path: Path, path: str
):
    upstream.then(floods_at_once)
    config = slow(upstream.base_url, default=True, passthrough=["audio"])
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as slow_reader:
        slow_reader.sendall(post_bytes(json.dumps(chat()).encode(), path))
        received = upstream.wait_received()
        wait_until(lambda: getattr(received, "sent", 0) > 0)
        time.sleep(1.0)
        held_at = received.sent  # type: ignore[attr-defined]
        time.sleep(0.5)

        assert received.sent == held_at < WHOLE_BYTES * 0.9  # type: ignore[attr-defined]
        total = 0
        while total < WHOLE_BYTES:
            piece = slow_reader.recv(1 << 20)
            assert piece
            total += len(piece)


def test_a_reader_that_never_reads_runs_into_the_total_deadline(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = floods
    config = config_for(upstream.base_url, timeouts={"total_s": 1.5, "idle_s": 1})
    with running_gateway(tmp_path, config) as gateway, gateway.connect() as connection:
        connection.sendall(post_chat(stream=True))
        received = upstream.wait_received()

        assert received.disconnected.wait(4)
        trace = gateway.trace()
        assert (trace.outcome, trace.error) == ("timeout", "total_timeout")
        assert 1500 <= trace.latency_ms < 3000


@pytest.mark.transports("native")  # no transport has a part in it
def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway, upstream: ScriptedUpstream):
    bodies = [json.dumps(chat(user=str(number))).encode() for number in range(3)]
    with gateway.connect() as connection:
        connection.sendall(b"".join(post_bytes(body) for body in bodies))
        wait_until(lambda: len(upstream.received) == 3)
        gateway.traces(3)

    assert [received.json()["user"] for received in upstream.received] == ["0", "1", "2"]
