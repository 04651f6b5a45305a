"""An answer that is odd and whole passes as it is; one that is not JSON, or a refusal, is not asked for again."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.support.faults import HTML, STREAMED, WHOLE, ask, whole
from tests.support.request_path import RunningGateway, chat
from tests.support.upstream import (
    Received,
    Reply,
    ScriptedUpstream,
    completion,
    delta,
    event,
    sends,
    stream_events,
    streams_events,
)

pytestmark = pytest.mark.transports("native", "httpx")


@pytest.mark.parametrize("name", STREAMED)
def test_an_error_whose_code_is_a_refusal_is_not_asked_for_again(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    path, body, _ = STREAMED[name]
    error = event({"error": {"message": "no such field", "code": 400}})
    upstream.default = streams_events([error])

    assert ask(gateway, path, body).content == error
    assert [attempt.error for attempt in gateway.trace().attempts] == ["error_in_200"]


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_never_json_is_a_502(gateway: RunningGateway, upstream: ScriptedUpstream, name: str):
    path, body, _ = WHOLE[name]
    upstream.default = whole(HTML, b"text/html")
    answer = ask(gateway, path, body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert {attempt.error for attempt in gateway.trace().attempts} == {"not_json"}


def test_a_stream_that_is_not_called_one_passes_as_it_is(gateway: RunningGateway, upstream: ScriptedUpstream):
    body = b"".join(stream_events(["hello"]))
    upstream.default = whole(body, b"text/plain")

    assert ask(gateway, "/chat/completions", chat(stream=True)).content == body


def test_a_stream_is_known_however_its_type_is_written(gateway: RunningGateway, upstream: ScriptedUpstream):
    half = event(delta("half an"))
    upstream.default = whole(half, b"Text/Event-Stream; charset=UTF-8")

    assert b"stream_truncated" in ask(gateway, "/chat/completions", chat(stream=True)).content


def test_a_body_that_its_server_compressed_all_the_same_passes_as_it_is(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    async def compressed(received: Received, reply: Reply) -> None:
        body = gzip.compress(json.dumps(completion()).encode())
        await reply.whole(body, 200, ("content-type", "application/json"), ("content-encoding", "gzip"))

    upstream.default = compressed
    assert ask(gateway, "/chat/completions", chat()).json() == completion()


OK = json.dumps(completion()).encode()
ODD: dict[str, bytes] = {
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: %d\n\n%s" % (len(OK), OK),
    "no reason": b"HTTP/1.1 200 \r\ncontent-length: %d\r\n\r\n%s" % (len(OK), OK),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + OK,
    "1xx first": b"HTTP/1.1 103 Early Hints\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + OK,
    "chunks with extensions and trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
    b"%x;a=b\r\n%s\r\n0\r\nx: y\r\n\r\n" % (len(OK), OK),
    "a space behind the size of a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x \r\n%s\r\n0\r\n\r\n" % (len(OK), OK),
    "more than was announced": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%strailing" % (len(OK), OK),
    "an answer nobody asked for": (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(OK), OK)) * 2,
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_and_whole_is_an_answer(gateway: RunningGateway, upstream: ScriptedUpstream, name: str):
    upstream.default = sends(ODD[name])
    for count in (1, 2):
        assert ask(gateway, "/chat/completions", chat()).json() == completion()
        assert len(gateway.traces(count)[-1].attempts) == 1
