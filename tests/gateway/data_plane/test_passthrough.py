"""Endpoints that are passed through: whose they are, that nothing of them is held, how they break off."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.upstream import Received, Reply, ScriptedUpstream, answers_status, hangs

KEYS = {"WEB": "key-web", "OPS": "key-ops", "DESK": "key-desk", "UP": "key-upstream"}
ALL = ["audio", "images", "moderations", "files", "batches", "fine_tuning"]


def config(base_url: str, families: list[str], **listen: Any) -> dict[str, Any]:
    made = config_for(base_url, default=True, passthrough=families, api_key={"env": "UP"})
    made["auth"] = {
        "keys": [
            {"name": "web", "key": {"env": "WEB"}},
            {"name": "ops", "key": {"env": "OPS"}, "scopes": ["infer", "admin"]},
            {"name": "desk", "key": {"env": "DESK"}, "scopes": ["infer", "admin"], "routes": ["bot"]},
        ]
    }
    return {**made, "listen": listen}


@pytest.fixture
def passing(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, config(upstream.base_url, ALL), KEYS) as running:
        yield running


def ask(gateway: RunningGateway, method: str, path: str, key: str = "key-ops", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
    return httpx.request(method, f"{gateway.base_url}{path}", headers=headers, timeout=10, **more)


def replies(body: bytes, content_type: str, status: int = 200):
    async def script(received: Received, reply: Reply) -> None:
        await reply.whole(body, status, ("content-type", content_type), ("x-upstream", "yes"))

    return script


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/audio/speech"),
        ("POST", "/images/generations?size=big&n=2"),
        ("POST", "/moderations"),
        ("GET", "/files"),
        ("DELETE", "/files/file-1"),
        ("GET", "/files/file-1/content"),
        ("POST", "/batches/b-1/cancel"),
        ("GET", "/fine_tuning/jobs?limit=3"),
    ],
)
def test_request_and_response_pass_as_they_are(
    passing: RunningGateway, upstream: ScriptedUpstream, method: str, path: str
):
    body = b"\x00any bytes\xff" if method == "POST" else b""
    upstream.default = replies(b"\xffany answer\x00", "audio/mpeg", 201)
    answer = ask(passing, method, path, content=body, headers={"x-own": "1", "content-type": "a/b"})
    received = upstream.received[0]

    assert (answer.status_code, answer.content) == (201, b"\xffany answer\x00")
    assert "x-tracetune-variant" not in answer.headers  # no route chose one
    assert (answer.headers["content-type"], answer.headers["x-upstream"]) == ("audio/mpeg", "yes")
    assert (received.method, received.target, received.body) == (method, f"/v1{path}", body)
    assert (received.header("x-own"), received.header("content-type")) == ("1", "a/b")
    assert received.header("authorization") == "Bearer key-upstream"


def test_what_a_client_says_in_place_of_our_headers_is_dropped(upstream: ScriptedUpstream, tmp_path: Path):
    made = config(upstream.base_url, ALL)
    made["upstreams"][0] |= {"auth_header": "x-auth", "headers": [{"name": "X-Team", "value": "ours"}]}
    said = {"x-auth": "theirs", "x-team": "theirs", "api-key": "theirs", "x-other": "theirs"}
    with running_gateway(tmp_path, made, KEYS) as gateway:
        assert ask(gateway, "POST", "/audio/speech", headers=said).status_code == 200
    headers = upstream.received[0].headers

    assert [name for name, value in headers if value == "theirs"] == ["x-other"]
    assert [(name.lower(), value) for name, value in headers if name.lower() in {"x-auth", "x-team"}] == [
        ("x-team", "ours"),
        ("x-auth", "key-upstream"),
    ]
    assert "key-ops" not in repr(upstream.received[0])


def test_an_upstreams_own_way_of_being_asked_holds_for_what_is_passed_through_too(
    upstream: ScriptedUpstream, tmp_path: Path
):
    made = config(upstream.base_url, ALL)
    made["upstreams"][0] |= {
        "auth_header": "api-key",
        "headers": [{"name": "x-team", "value": "search"}],
        "query": [{"name": "api-version", "value": "2024-10-21"}],
    }
    with running_gateway(tmp_path, made, KEYS) as gateway:
        assert ask(gateway, "GET", "/files?limit=3&api-version=mine").status_code == 200
    received = upstream.received[0]

    assert received.target == "/v1/files?api-version=2024-10-21&limit=3"
    assert (received.header("api-key"), received.header("authorization")) == ("key-upstream", None)
    assert received.header("x-team") == "search"


def test_its_trace_is_metadata_without_a_route(passing: RunningGateway, upstream: ScriptedUpstream):
    answer = ask(passing, "GET", "/files/file-secret-name", headers={"x-tracetune-session": "s"})
    record, trace = passing.records()[0], passing.trace()

    assert (trace.route, trace.variant, trace.capture, trace.outcome) == ("", "", "metadata", "ok")
    assert (trace.endpoint, trace.upstream, trace.session, trace.client) == ("/v1/files", "up", "s", "ops")
    assert (record.request, record.response) == (b"", b"")
    assert answer.headers["x-tracetune-trace-id"] == trace.trace_id


@pytest.mark.parametrize("family", ["files", "batches", "fine_tuning"])
def test_what_is_everybodys_needs_scope_admin(
    passing: RunningGateway, upstream: ScriptedUpstream, family: str
):
    assert ask(passing, "GET", f"/{family}", "key-web").status_code == 403
    assert upstream.received == []


def test_without_a_key_nothing_passes(passing: RunningGateway, upstream: ScriptedUpstream):
    assert ask(passing, "POST", "/audio/speech", "wrong").status_code == 401
    assert upstream.received == []


@pytest.mark.parametrize("path", ["/audio/speech", "/files"])
def test_a_key_for_some_routes_passes_nothing_that_no_route_serves(
    passing: RunningGateway, upstream: ScriptedUpstream, path: str
):
    assert ask(passing, "POST", path, "key-desk").status_code == 403
    assert upstream.received == []


def test_only_what_is_listed_passes(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, config(upstream.base_url, ["audio"]), KEYS) as gateway:
        assert ask(gateway, "POST", "/audio/speech").status_code == 200
        for path in ("/images/edits", "/files", "/assistants", "/audiobooks"):
            answer = ask(gateway, "GET", path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/v1/audio/../load_lora_adapter",
        "/v1/audio/%2e%2e/load_lora_adapter",
        "/v1/audio/%2E%2E%2Fload_lora_adapter",
        "/v1/audio/..%2fload_lora_adapter",
        "/v1/audio/.",
        "/v1/audio//load_lora_adapter",
        "/v1/audio/..;/load_lora_adapter",
        "/v1/audio/..\\load_lora_adapter",
        "/v1/audio/%5c..%5c",
        "/v1/audio/%252e%252e/load_lora_adapter",
        "/v1//load_lora_adapter",
        "/v1/audio/speech%0A",
        "/v1/audio/..%0A",
    ],
)
def test_no_way_of_writing_a_path_leaves_its_family(
    passing: RunningGateway, upstream: ScriptedUpstream, target: str
):
    request = f"POST {target} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer key-ops\r\nconnection: close\r\n"
    with passing.connect() as connection:
        connection.sendall(request.encode() + b"content-length: 0\r\n\r\n")
        answer = connection.recv(65536)

    assert answer.split(b" ")[1] in {b"404", b"400"}
    assert upstream.received == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS"])
def test_other_methods_do_not_pass(passing: RunningGateway, upstream: ScriptedUpstream, method: str):
    answer = ask(passing, method, "/files")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST, DELETE")
    assert upstream.received == []


def test_the_openai_client_uploads_and_speaks(passing: RunningGateway, upstream: ScriptedUpstream):
    client = openai.OpenAI(base_url=passing.base_url, api_key="key-ops", max_retries=0)
    upstream.default = replies(b'{"text": "hello"}', "application/json")
    spoken = client.audio.transcriptions.create(file=("a.wav", b"RIFF" * 1000), model="whisper-1")
    multipart = upstream.received[0]
    upstream.default = replies(b"mp3 bytes", "audio/mpeg")
    sound = client.audio.speech.create(input="hello", model="tts-1", voice="alloy")

    assert spoken.text == "hello"
    assert (multipart.header("content-type") or "").startswith("multipart/form-data; boundary=")
    assert b"RIFF" * 1000 in multipart.body
    assert sound.content == b"mp3 bytes"


@pytest.mark.transports("native", "httpx", "http2")
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_passes_whole(passing: RunningGateway, upstream: ScriptedUpstream, chunked: bool):
    piece = bytes(range(256)) * 256
    count = 160  # ten megabytes, more than any buffer on the way
    headers = {} if chunked else {"content-length": str(len(piece) * count)}
    answer = ask(passing, "POST", "/files", content=iter([piece] * count), headers=headers)

    assert answer.status_code == 200
    assert upstream.received[0].body == piece * count


@pytest.mark.transports("native", "httpx")
def test_a_server_that_takes_an_upload_slowly_holds_back_its_sender(
    upstream: ScriptedUpstream, tmp_path: Path
):
    # A listener that accepts and reads nothing.
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        made = config(f"http://127.0.0.1:{stuck.getsockname()[1]}/v1", ALL)
        made["upstreams"][0]["timeouts"] = {"idle_s": 0.7}
        with running_gateway(tmp_path, made, KEYS) as gateway, gateway.connect() as sender:
            head = "POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer key-ops\r\n"
            sender.sendall(f"{head}content-length: 1000000000\r\n\r\n".encode())
            sender.settimeout(0.3)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 200_000_000:
                    sent += sender.send(b"x" * 65536)

            assert sent < 100_000_000
            sender.settimeout(5)
            assert sender.recv(65536).startswith(b"HTTP/1.1 504 ")
            assert gateway.trace().outcome == "timeout"


@pytest.mark.transports("native", "httpx")
def test_an_upload_goes_on_to_the_upstream_while_it_still_comes(tmp_path: Path):
    with uploading(tmp_path) as (_, sender, server):
        seen = 0
        for _ in range(5):
            sender.sendall(b"y" * 10_000)
            seen += 10_000
            while seen > 0:
                seen -= server.recv(65536).count(b"y")


@contextlib.contextmanager
def uploading(
    directory: Path, *, length: int = 1_000_000, begun: bytes | None = None
) -> Iterator[tuple[RunningGateway, socket.socket, socket.socket]]:
    """A gateway, and both ends of an upload that has begun: scripts see whole requests only."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = config(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", ALL, max_upload_bytes=1_000_000_000)
        with running_gateway(directory, made, KEYS) as gateway, gateway.connect() as sender:
            head = "POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer key-ops\r\n"
            if begun is None:
                begun = b"content-length: %d\r\n\r\n" % length + b"x" * 1000
            sender.sendall(head.encode() + begun)
            server, _ = listener.accept()
            with server:
                server.settimeout(3)
                assert server.recv(65536).startswith(b"POST /v1/files ")
                yield gateway, sender, server


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    return data


EARLY = b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno"


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\na: b\r\n\r\n"], ids=["", "1xx"]
)
@pytest.mark.parametrize("closes", [False, True])
def test_an_answer_that_comes_before_the_upload_is_whole_ends_it(tmp_path: Path, before: bytes, closes: bool):
    with uploading(tmp_path) as (gateway, sender, server):
        for byte in before:
            server.sendall(bytes([byte]))
        sender.sendall(b"x" * 1000)
        assert server.recv(65536)
        server.sendall(EARLY)
        if closes:
            server.close()
        started = time.monotonic()
        answer = read_to_end(sender)
        if not closes:
            read_to_end(server)  # ours is closed: it cannot be used again
        trace = gateway.trace()

    assert time.monotonic() - started < 2
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"no")
    assert b"connection: close" in answer
    assert (trace.status, [attempt.error for attempt in trace.attempts]) == (413, [None])


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("closes", [False, True])
def test_an_early_answer_is_heard_while_its_server_takes_nothing(tmp_path: Path, closes: bool):
    """It answers and reads no more, while the client has more to send than fits on the way."""
    with uploading(tmp_path, length=100_000_000) as (gateway, sender, server):
        sending = threading.Thread(target=send_all, args=(sender, b"x" * 99_999_000), daemon=True)
        sending.start()
        time.sleep(0.5)  # until every buffer is full
        server.sendall(EARLY)
        if closes:
            server.close()
        answer = read_to_end(sender)
        sending.join(5)

        assert answer.startswith(b"HTTP/1.1 413 ")
        assert gateway.trace().status == 413


@pytest.mark.transports("native", "httpx")
def test_a_server_that_closes_before_the_upload_is_whole_ends_it(tmp_path: Path):
    with uploading(tmp_path) as (gateway, sender, server):
        server.close()
        answer = read_to_end(sender)
        trace = gateway.trace()

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert [attempt.error for attempt in trace.attempts] == ["disconnected"]


@pytest.mark.transports("native", "httpx")
def test_an_early_answer_survives_what_its_client_goes_on_sending(tmp_path: Path):
    """A server that closes with something unread resets the connection as soon as more comes."""
    with uploading(tmp_path) as (gateway, sender, server):
        server.sendall(EARLY)
        server.close()
        send_all(sender, b"x" * 500_000)
        answer = read_to_end(sender)
        trace = gateway.trace()

    assert answer.startswith(b"HTTP/1.1 413 ") or not answer, "our client may lose it the same way"
    assert (trace.status, [attempt.error for attempt in trace.attempts]) == (413, [None])


def send_all(sender: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):
        sender.sendall(data)


@pytest.mark.transports("native")
def test_nothing_is_said_into_an_answer_that_is_on_its_way(tmp_path: Path):
    chunked = b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with uploading(tmp_path, begun=chunked) as (gateway, sender, server):
        server.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        seen = b""
        while b"begun" not in seen:
            seen += sender.recv(65536)
        sender.sendall(b"no chunk\r\n")
        rest = read_to_end(sender)
        trace = gateway.trace()

    assert rest.strip() == b""
    assert (trace.outcome, trace.status) == ("truncated", 200)


@pytest.mark.transports("native", "httpx")
def test_a_client_that_leaves_an_upload_cancels_it(tmp_path: Path):
    with uploading(tmp_path) as (gateway, sender, server):
        left_at = time.monotonic()
        sender.close()
        read_to_end(server)

        assert time.monotonic() - left_at < 2
        assert gateway.trace().outcome == "client_cancelled"


@pytest.mark.transports("native", "httpx")
def test_an_upload_beyond_the_bound_is_a_413_that_names_the_setting(
    upstream: ScriptedUpstream, tmp_path: Path
):
    made = config(upstream.base_url, ALL, max_upload_bytes=100_000)
    with running_gateway(tmp_path, made, KEYS) as gateway:
        told = ask(gateway, "POST", "/files", content=b"x" * 100_001)
        found = ask(gateway, "POST", "/files", content=iter([b"x" * 60_000] * 2))

    for answer in (told, found):
        assert answer.status_code == 413
        assert "listen.max_upload_bytes" in answer.json()["error"]["message"]


def test_errors_of_the_upstream_pass_as_they_are(passing: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers_status(429, {"error": {"message": "slow down"}}, retry_after="7")
    answer = ask(passing, "POST", "/moderations", json={"input": "x"})

    assert (answer.status_code, answer.json()) == (429, {"error": {"message": "slow down"}})
    assert answer.headers["retry-after"] == "7"
    assert len(upstream.received) == 1
    assert passing.trace().outcome == "upstream_error"


@pytest.mark.transports("native", "httpx")
def test_an_answer_that_breaks_off_is_broken_off(passing: RunningGateway, upstream: ScriptedUpstream):
    async def breaks(received: Received, reply: Reply) -> None:
        await reply.head(200, ("content-type", "audio/mpeg"), ("content-length", "100"))
        await reply.raw(b"x" * 50)
        reply.close()

    upstream.default = breaks
    with pytest.raises(httpx.RemoteProtocolError):
        ask(passing, "POST", "/audio/speech")
    assert passing.trace().outcome == "truncated"


def test_an_upstream_that_says_nothing_is_a_504(upstream: ScriptedUpstream, tmp_path: Path):
    made = config(upstream.base_url, ALL)
    made["upstreams"][0]["timeouts"] = {"headers_s": 0.4}
    upstream.default = hangs()
    with running_gateway(tmp_path, made, KEYS) as gateway:
        assert ask(gateway, "POST", "/moderations").status_code == 504
        assert gateway.trace().outcome == "timeout"


def test_more_requests_than_the_process_may_have_are_refused_before_their_upload(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = hangs()
    with (
        running_gateway(tmp_path, config(upstream.base_url, ALL, concurrent=1), KEYS) as gateway,
        gateway.connect() as first,
        gateway.connect() as second,
    ):
        head = "POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer key-ops\r\n"
        first.sendall(f"{head}content-length: 0\r\n\r\n".encode())
        upstream.wait_received()
        second.sendall(f"{head}content-length: 9\r\nexpect: 100-continue\r\n\r\n".encode())

        answer = second.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"listen.concurrent" in answer


def test_an_upload_that_waits_to_be_asked_for_is(passing: RunningGateway, upstream: ScriptedUpstream):
    with passing.connect() as sender:
        head = "POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer key-ops\r\n"
        sender.sendall(f"{head}content-length: 9\r\nexpect: 100-continue\r\n\r\n".encode())
        assert sender.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sender.sendall(b"the files")
        assert sender.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert upstream.received[0].body == b"the files"
