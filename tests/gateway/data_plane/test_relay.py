"""Bytes out equal bytes in; each trace is there before the last of them."""

from __future__ import annotations

import gzip
import json
import socket
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.data_plane import relay
from gateway.traces.rows import RowBuilder
from tests.support.legacy import streams_text
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    running_gateway,
)
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    completion,
    delta,
    event,
    sends,
    stream_events,
    streams,
    streams_events,
)

pytestmark = pytest.mark.transports("native", "httpx")
JSON = ("content-type", "application/json")


def ask(gateway: RunningGateway, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{gateway.base_url}/chat/completions",
        content=body,
        headers={"content-type": "application/json", **headers},
        timeout=10,
    )


def replies(body: bytes, *headers: tuple[str, str], status: int = 200):
    async def script(received: Received, reply: Reply) -> None:
        await reply.whole(body, status, *headers)

    return script


@pytest.mark.transports("native", "httpx", "http2")
def test_the_query_goes_along(gateway: RunningGateway, upstream: ScriptedUpstream):
    for query in ("", "?api-version=2024-10-21&x=%20", "?y"):
        url = f"{gateway.base_url}/chat/completions{query}"
        assert httpx.post(url, json=chat(), timeout=10).status_code == 200
        assert upstream.received[-1].target == f"/v1/chat/completions{query}"


@pytest.mark.transports("native")  # no transport has a part in it
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.dictionaries(st.text(max_size=6).filter(lambda key: key not in {"model", "stream"}), st.text()),
    response=st.dictionaries(
        st.text(max_size=6).filter(lambda key: key != "error"), st.text() | st.floats(allow_nan=False)
    ),
    spaces=st.text(" \n\t", max_size=3),
)
def test_only_the_model_changes_on_the_way_there_and_nothing_on_the_way_back(
    gateway: RunningGateway, upstream: ScriptedUpstream, fields: dict, response: dict, spaces: str
):
    answer = (spaces + json.dumps(response) + spaces).encode()
    upstream.default = replies(answer, JSON)
    text = spaces + json.dumps({**fields, "model": "bot"}, ensure_ascii=False) + spaces
    body = text.encode()

    assert ask(gateway, body).content == answer
    received = upstream.received[-1].body
    assert json.loads(received) == {**json.loads(body), "model": "served-model"}
    assert len(received) == len(body) - len("bot") + len("served-model")


def test_unknown_headers_and_the_status_survive_in_both_directions(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = replies(
        b'{"id":"x"}',
        JSON,
        ("x-request-id", "req-9"),
        ("x-ratelimit-remaining", "3"),
        ("x-new", "é"),
        status=203,
    )
    answer = ask(
        gateway, json.dumps(chat()).encode(), **{"openai-beta": "v2", "authorization": "Bearer mine"}
    )

    assert answer.status_code == 203
    assert (answer.headers["x-request-id"], answer.headers["x-ratelimit-remaining"]) == ("req-9", "3")
    received = upstream.received[0]
    assert received.header("openai-beta") == "v2"
    assert received.header("authorization") is None
    assert received.header("accept-encoding") == "identity"


@pytest.mark.transports("native", "httpx", "http2")
def test_the_upstreams_own_key_goes_upstream_and_nowhere_else(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, api_key={"env": "UPSTREAM_KEY"})
    with running_gateway(tmp_path, config, {"UPSTREAM_KEY": "sk-upstream"}) as gateway:
        answer = ask(gateway, json.dumps(chat()).encode(), authorization="Bearer mine")
        record = gateway.records()[0]

    assert upstream.received[0].header("authorization") == "Bearer sk-upstream"
    assert "sk-upstream" not in f"{answer.headers}{answer.text}"
    assert b"sk-upstream" not in record.meta + record.request + record.response


@pytest.mark.transports("native")  # no transport has a part in it
@pytest.mark.parametrize(
    ("script", "status"),
    [
        (replies(b"{}", JSON), 200),
        (replies(b" " * 2 * relay.BUFFERED_BYTES, JSON), 200),
        (streams_events(stream_events(["a"])), 200),
        (streams_events([event(delta("half an"))], gap_s=0.05), 200),
        (replies(b"{}", JSON, status=400), 400),
        (sends(b"no HTTP\r\n\r\n"), 502),
    ],
    ids=["whole", "large", "stream", "broken stream", "refusal", "no answer"],
)
def test_our_headers_say_which_variant_answered_however_it_did(
    gateway: RunningGateway, upstream: ScriptedUpstream, script: Script, status: int
):
    upstream.default = script
    answer = ask(gateway, json.dumps(chat(stream=True)).encode())

    assert answer.status_code == status
    assert answer.headers["x-tracetune-trace-id"] == gateway.trace().trace_id
    assert (answer.headers["x-tracetune-route"], answer.headers["x-tracetune-variant"]) == ("bot", "stable")


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("length", b'{"a":1}'),
        ("chunked", b'{"a":1}'),
        ("close", b'{"a":1}'),
        ("interim", b'{"a":1}'),
    ],
)
def test_every_framing_of_a_body_is_understood(
    gateway: RunningGateway, upstream: ScriptedUpstream, framing: str, body: bytes
):
    async def script(received: Received, reply: Reply) -> None:
        if framing == "interim":
            await reply.raw(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        if framing == "chunked":
            await reply.head(200, JSON, ("transfer-encoding", "chunked"))
            for at in range(len(body)):
                await reply.chunk(body[at : at + 1])
            await reply.end_chunks()
        elif framing == "close":
            await reply.head(200, JSON)
            await reply.raw(body)
            reply.close()
        else:
            await reply.whole(body, 200, JSON)

    upstream.default = script
    for _ in range(2):
        answer = ask(gateway, json.dumps(chat()).encode())
        assert (answer.status_code, answer.content) == (200, body)
        gateway.wait_idle(0 if framing == "close" else 1)
    assert "link" not in answer.headers
    assert upstream.connections == (2 if framing == "close" else 1)


@pytest.mark.transports("native", "httpx", "http2")
def test_a_compressed_response_passes_as_it_is_and_the_trace_says_so(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    body = gzip.compress(json.dumps(completion()).encode())
    upstream.default = replies(body, JSON, ("content-encoding", "gzip"))
    answer = ask(gateway, json.dumps(chat()).encode())
    record = gateway.records()[0]

    assert answer.json() == completion()
    assert record.response == body
    assert gateway.trace().content_encoding == "gzip"


@pytest.mark.transports("native", "httpx", "http2")
@pytest.mark.parametrize("size", [relay.BUFFERED_BYTES - 20, relay.BUFFERED_BYTES * 3])
def test_a_large_response_passes_whole(gateway: RunningGateway, upstream: ScriptedUpstream, size: int):
    body = json.dumps({"text": "x" * size}).encode()
    upstream.default = replies(body, JSON)
    answer = ask(gateway, json.dumps(chat(big="y" * 400_000)).encode())

    assert answer.content == body
    assert gateway.records()[0].response == body
    assert gateway.trace().outcome == "ok"


@pytest.mark.transports("native", "httpx", "http2")
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_passes_byte_for_byte_but_for_the_usage_nobody_asked_for(
    gateway: RunningGateway, upstream: ScriptedUpstream, usage: bool
):
    events = [b": hello\n\n", *stream_events(["a", "b"], usage=True)]
    upstream.default = streams_events(events)
    options = {"stream_options": {"include_usage": True}} if usage else {}
    answer = ask(gateway, json.dumps(chat(stream=True, **options)).encode())

    expected = events if usage else [*events[:-2], DONE]
    assert answer.content == b"".join(expected)
    assert gateway.records()[0].response == b"".join(events)


@pytest.mark.transports("native")  # no transport has a part in it
@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_the_tokens_of_a_stream_are_counted_though_its_client_did_not_ask_for_them(
    gateway: RunningGateway, upstream: ScriptedUpstream, path: str
):
    upstream.default = streams(["a"]) if path.startswith("/chat") else streams_text(["a"])
    answer = httpx.post(f"{gateway.base_url}{path}", json={**chat(stream=True), "prompt": "hi"}, timeout=10)
    row = RowBuilder(None).build(gateway.records()[0]).values

    assert upstream.received[0].json()["stream_options"] == {"include_usage": True}
    assert b"prompt_tokens" not in answer.content
    assert answer.content.endswith(DONE)
    assert (row.tokens_in, row.tokens_out) == (11, 2)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("stream", [False, True])
def test_the_trace_is_there_when_the_last_byte_is(
    gateway: RunningGateway, upstream: ScriptedUpstream, stream: bool
):
    upstream.default = streams_events(stream_events(["a"])) if stream else replies(b'{"a":"end"}', JSON)
    for count in range(1, 20):
        with gateway.connect() as connection:
            connection.sendall(post_bytes(json.dumps(chat(stream=stream)).encode()))
            read_until(connection, b"[DONE]" if stream else b'"end"}')

            assert len(gateway.traces(count, within_s=0)) == count


@pytest.mark.transports("native", "httpx", "http2")
def test_each_event_passes_when_it_comes(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams_events([event(delta("first"))], then="hang")
    with gateway.connect() as connection:
        connection.sendall(post_bytes(json.dumps(chat(stream=True)).encode()))
        seen = read_until(connection, b"first")

    assert b"200" in seen.split(b"\r\n")[0]


TYPES = ["text/event-stream", "Text/Event-Stream; charset=utf-8", "text/plain", "application/json", None]


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("first", [b"", b": wait\n\n", b"\xef\xbb\xbf", b"event: x\nid: 1\n"])
def test_a_stream_is_one_whatever_its_server_calls_it(
    gateway: RunningGateway, upstream: ScriptedUpstream, kind: str | None, first: bytes
):
    begun = first + event(delta("first"))

    async def script(received: Received, reply: Reply) -> None:
        named = [("content-type", kind)] if kind is not None else []
        await reply.head(200, *named, ("transfer-encoding", "chunked"))
        await reply.chunk(begun[:3])
        await reply.pause(0.05)
        await reply.chunk(begun[3:])
        await reply.pause(0.3)
        await reply.end_chunks()

    upstream.default = script
    with gateway.connect() as connection:
        connection.sendall(post_bytes(json.dumps(chat(stream=True)).encode()))
        seen = read_until(connection, begun)
        assert b"stream_truncated" not in seen  # it was not kept until its end
        read_until(connection, b"stream_truncated")

    assert gateway.trace().outcome == "truncated"


def test_a_status_that_nobody_defined_passes(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = replies(b"{}", JSON, status=299)
    assert ask(gateway, json.dumps(chat()).encode()).status_code == 299
    upstream.default = replies(b"{}", JSON, status=799)
    assert ask(gateway, json.dumps(chat()).encode()).status_code == 799


@pytest.mark.transports("native")  # no transport has a part in it
def test_a_client_of_http_1_0_gets_a_stream_without_chunks(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = streams_events(stream_events(["a"]))
    with gateway.connect() as connection:
        request = post_bytes(json.dumps(chat(stream=True)).encode()).replace(b"HTTP/1.1", b"HTTP/1.0")
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece

    assert answer.partition(b"\r\n\r\n")[2] == b"".join(stream_events(["a"]))


@pytest.mark.transports("native", "httpx", "http2")
def test_one_connection_to_the_upstream_serves_many_requests(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    for _ in range(5):
        assert ask(gateway, json.dumps(chat()).encode()).json() == completion()
        gateway.wait_idle(1)

    assert upstream.connections == 1


def test_one_client_connection_serves_many_requests(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams_events(stream_events(["a"]))
    with httpx.Client(base_url=gateway.base_url) as client:
        answers = [client.post("/chat/completions", json=chat(stream=True)) for _ in range(5)]

    assert {answer.content for answer in answers} == {b"".join(stream_events(["a"]))}
    assert len({trace.trace_id for trace in gateway.traces(5)}) == 5


def test_every_field_of_a_trace_has_what_it_is_named_for(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, prices=[{"model": "served-model", "input": 1, "output": 2}])
    config["auth"] = {"keys": [{"name": "web", "key": {"env": "WEB"}}]}
    headers = {
        "authorization": "Bearer key-web",
        "x-tracetune-session": "a session",
        "x-tracetune-user": "a subject",
        "x-tracetune-tag-one": "a tag",
        "traceparent": "a parent",
    }
    with running_gateway(tmp_path, config, {"WEB": "key-web"}) as gateway:
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=False), headers=headers)
        trace = gateway.trace()
        table = gateway.state.live.table

    assert trace.trace_id == answer.headers["x-tracetune-trace-id"]
    assert (trace.route, trace.variant, trace.snapshot, trace.rollout) == ("bot", "stable", None, None)
    assert (trace.client, trace.session, trace.subject) == ("web", "a session", "a subject")
    assert (trace.upstream, trace.model, trace.endpoint) == ("up", "served-model", "/v1/chat/completions")
    assert (trace.propensity, trace.stream, trace.status, trace.outcome) == (1.0, False, 200, "ok")
    assert (trace.tags, trace.traceparent) == ({"one": "a tag"}, "a parent")
    assert (trace.table_hash, trace.capture) == (table.hash, "full")
    assert trace.price is not None
    assert (trace.machine_cost_usd, trace.content_encoding, trace.error) == (None, None, None)
    assert abs(trace.started_at_us / 1e6 - time.time()) < 60
    assert 0 < trace.latency_ms < 10_000
    assert trace.ttft_ms is None
    assert [attempt.upstream for attempt in trace.attempts] == ["up"]
