"""Each fault that an upstream can have before its first content is survived, at every endpoint that is routed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.upstream import retries
from tests.support.request_path import (
    ROUTE,
    UPSTREAM_DEFAULTS,
    RunningGateway,
    chat,
    config_for,
    running_gateway,
)
from tests.support.responses import (
    asked,
    opening,
    response_object,
    streams_response,
    typed,
    whole_stream,
)
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    answers_status,
    completion,
    delta,
    event,
    hangs,
    sends,
    stream_events,
    streams_events,
)

pytestmark = pytest.mark.transports("native", "httpx")

PROMPT = {"model": ROUTE, "prompt": "hi"}
TEXT = {"id": "cmpl-1", "choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}]}
EMBEDDING = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "m"}
# What is asked, and how an upstream answers it.
WHOLE: dict[str, tuple[str, Any, Script]] = {
    "chat": ("/chat/completions", chat(), answers_status(200, completion())),
    "completions": ("/completions", PROMPT, answers_status(200, TEXT)),
    "embeddings": ("/embeddings", {"model": ROUTE, "input": "hi"}, answers_status(200, EMBEDDING)),
    "responses": ("/responses", asked(), answers_status(200, response_object())),
}
STREAMED: dict[str, tuple[str, Any, Script]] = {
    "chat": ("/chat/completions", chat(stream=True), streams_events(stream_events(["he", "llo"]))),
    "completions": ("/completions", {**PROMPT, "stream": True}, streams_events([event(TEXT), DONE])),
    "responses": ("/responses", asked(stream=True), streams_response(whole_stream(["he", "llo"]))),
}
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
ERROR = {"error": {"message": "it broke", "code": "server_error"}}
BARE_ERROR = {"object": "error", "message": "it broke", "type": "InternalServerError", "code": 500}
HTML = b"<html><body>Bad gateway</body></html>"


def whole(body: bytes, kind: bytes = b"application/json") -> Script:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
    return sends(head + body)


# Of any answer: it may be asked for again at once.
PASSING: dict[str, Script] = {
    **{f"status {status}": answers_status(status) for status in (408, 409, 429, 500, 502, 503, 504, 529)},
    "429 that says when": answers_status(429, retry_after="0"),
    "503 that says when": answers_status(503, retry_after="0"),
    "status without a body": sends(b"HTTP/1.1 503 Gone\r\ncontent-length: 0\r\n\r\n"),
    "closed at once": sends(b""),
    "reset at once": sends(b"", then="reset"),
    "half a head": sends(b"HTTP/1.1 200 OK\r\ncontent-ty"),
    "head alone": sends(JSON_HEAD + b"content-length: 99\r\n\r\n"),
    "head alone, chunked": sends(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n"),
    "half a body": sends(JSON_HEAD + b'content-length: 99\r\n\r\n{"id": "x"'),
    "half a body, reset": sends(JSON_HEAD + b'content-length: 99\r\n\r\n{"id": "x"', then="reset"),
    "half a body until close": sends(JSON_HEAD + b'\r\n{"id": "x"'),
    "malformed chunk": sends(JSON_HEAD + b'transfer-encoding: chunked\r\n\r\n5\r\n{"id"\r\nzz\r\n'),
    "no body": whole(b""),
    "blank body": whole(b"\n\n"),
    "error": answers_status(200, ERROR),
    "error after what keeps a connection alive": whole(b"\n" * 2000 + json.dumps(ERROR).encode()),
    "error behind other fields": answers_status(200, {"id": "x" * 500, **ERROR}),
    "bare error": answers_status(200, BARE_ERROR),
    "error whose code is a status": answers_status(200, {"error": {"message": "x", "code": 503}}),
}
PASSING_WHOLE = {
    **PASSING,
    "HTML": whole(HTML, b"text/html"),
    "HTML that is called JSON": whole(HTML),
    "stream that was not asked for and dies": streams_events([]),
}
PASSING_STREAMED = {
    **PASSING,
    "nothing": sends(STREAM_HEAD + b"\r\n"),
    "nothing, chunked": streams_events([]),
    "nothing, closed": streams_events([], then="close"),
    "comment": streams_events([b": wait\n\n"]),
    "comment, reset": streams_events([b": wait\n\n"], then="reset"),
    "end mark alone": streams_events([DONE]),
    "HTML event": streams_events([event(HTML), DONE]),
    "half an event": streams_events([b'data: {"id"']),
    "error event": streams_events([event(ERROR)]),
    "error event and end mark": streams_events([event(ERROR), DONE]),
    "error event behind a comment": streams_events([b": wait\n\n", event(ERROR)]),
    "named error event": streams_events([b"event: error\n" + event(ERROR)]),
    "bare error event": streams_events([event(BARE_ERROR), DONE]),
    "malformed chunk of a stream": sends(STREAM_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n"),
}
BY_ENDPOINT = {
    "chat": {
        "role alone": streams_events([event(delta("", role="assistant")), DONE]),
        "error behind a role": streams_events([event(delta("", role="assistant")), event(ERROR)]),
        "error beside an empty choice": streams_events([event({**delta(""), **ERROR})]),
    },
    "completions": {"empty text": streams_events([event({"choices": [{"index": 0, "text": ""}]}), DONE])},
    "responses": {
        "opening alone": streams_response(opening()),
        "failed": streams_response([*opening(), typed("response.failed", response=response_object(status="failed"))]),
    },
}  # fmt: skip
# Of any answer: it took the time there was, so that another upstream is asked and not the same.
HANGING: dict[str, Script] = {
    "silent": hangs(),
    "half a head": sends(b"HTTP/1.1 200 OK\r\ncontent-ty", then="hang"),
    "head alone": sends(JSON_HEAD + b"content-length: 99\r\n\r\n", then="hang"),
    "half a body": sends(JSON_HEAD + b"content-length: 99\r\n\r\n{", then="hang"),
}
HANGING_STREAMED = {
    **HANGING,
    "head of a stream alone": sends(STREAM_HEAD + b"\r\n", then="hang"),
    "comment": streams_events([b": wait\n\n"], then="hang"),
    "half an event": streams_events([b'data: {"id"'], then="hang"),
}


def ask(gateway: RunningGateway, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}{path}", json=body, timeout=10)


def unfailing(answer: Script, path: str, body: Any, upstream: ScriptedUpstream) -> bytes:
    """What the upstream itself says where nothing goes wrong."""
    upstream.default = answer
    return httpx.post(f"{upstream.base_url}{path}", json=body).content


def with_fallback(one: str, other: str, **timeouts: float) -> dict[str, Any]:
    config = config_for(one, retries={"max": 0}, ejection={"consecutive": 100, "min_requests": 1000})
    config["upstreams"].append({"name": "other", **UPSTREAM_DEFAULTS, "base_url": other})
    config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "m"}]
    config["routes"][0]["timeouts"] = timeouts
    return config


def faults_of(name: str, *, streamed: bool) -> dict[str, Script]:
    return {**PASSING_STREAMED, **BY_ENDPOINT[name]} if streamed else PASSING_WHOLE


CASES = [(name, False) for name in WHOLE] + [(name, True) for name in STREAMED]


@pytest.mark.parametrize(("name", "streamed"), CASES)
def test_what_fails_before_its_first_content_is_asked_for_again(
    upstream: ScriptedUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    streamed: bool,
):
    monkeypatch.setattr(retries, "BACKOFF_BASE_S", 0.001)
    path, body, answer = (STREAMED if streamed else WHOLE)[name]
    expected = unfailing(answer, path, body, upstream)
    config = config_for(upstream.base_url, retries={"max": 1, "budget": 1.0})
    with running_gateway(tmp_path, config) as gateway:
        for count, (fault, script) in enumerate(faults_of(name, streamed=streamed).items(), 1):
            upstream.then(script)
            assert ask(gateway, path, body).content == expected, fault
            trace = gateway.traces(count)[-1]
            assert trace.outcome == "ok", fault
            # A connection that is used again and closed without a byte was stale, which is no attempt.
            if not fault.endswith("at once"):
                assert [attempt.error is None for attempt in trace.attempts] == [False, True], fault


@pytest.mark.parametrize(("name", "streamed"), CASES)
def test_what_fails_before_its_first_content_moves_to_a_fallback(
    upstream: ScriptedUpstream, tmp_path: Path, name: str, streamed: bool
):
    path, body, answer = (STREAMED if streamed else WHOLE)[name]
    with ScriptedUpstream() as other:
        expected = unfailing(answer, path, body, other)
        with running_gateway(tmp_path, with_fallback(upstream.base_url, other.base_url)) as gateway:
            for count, (fault, script) in enumerate(faults_of(name, streamed=streamed).items(), 1):
                upstream.default = script
                assert ask(gateway, path, body).content == expected, fault
                trace = gateway.traces(count)[-1]
                assert (trace.outcome, trace.upstream) == ("ok", "other"), fault
                assert [attempt.upstream for attempt in trace.attempts] == ["up", "other"], fault


@pytest.mark.parametrize(("name", "streamed"), CASES)
def test_what_hangs_before_its_first_content_moves_to_a_fallback(
    upstream: ScriptedUpstream, tmp_path: Path, name: str, streamed: bool
):
    path, body, answer = (STREAMED if streamed else WHOLE)[name]
    faults = HANGING_STREAMED if streamed else HANGING
    with ScriptedUpstream() as other:
        expected = unfailing(answer, path, body, other)
        config = with_fallback(
            upstream.base_url, other.base_url, headers_s=0.2, first_token_s=0.2, idle_s=0.2
        )
        with running_gateway(tmp_path, config) as gateway:
            for count, (fault, script) in enumerate(faults.items(), 1):
                upstream.default = script
                assert ask(gateway, path, body).content == expected, fault
                first, second = gateway.traces(count)[-1].attempts
                assert ((first.error or "").endswith("_timeout"), second.error) == (True, None), fault
                assert upstream.received[-1].disconnected.wait(2), fault


FIRST = event({"choices": [{"index": 0, "text": "half an", "delta": {"content": "half an"}}]})
GAP_S = 0.05  # so that the first content is with the client before the stream ends
# After the first content: nothing takes the answer's place, and the client learns that it is not whole.
BREAKING: dict[str, Script] = {
    "ended": streams_events([FIRST], gap_s=GAP_S),
    "ended with the end mark": streams_events([FIRST, DONE], gap_s=GAP_S),
    "closed": streams_events([FIRST], gap_s=GAP_S, then="close"),
    "reset": streams_events([FIRST], gap_s=GAP_S, then="reset"),
    "hanging": streams_events([FIRST], then="hang"),
    "hanging in an event": streams_events([FIRST, b'data: {"cho'], gap_s=GAP_S, then="hang"),
    "not JSON": streams_events([FIRST, event(b"<oops>"), DONE], gap_s=GAP_S),
    "HTML": streams_events([FIRST, HTML + b"\n\n", DONE], gap_s=GAP_S),
    "error": streams_events([FIRST, event(ERROR), DONE], gap_s=GAP_S),
    "bare error": streams_events([FIRST, event(BARE_ERROR), DONE], gap_s=GAP_S),
}


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_what_breaks_after_its_first_content_ends_in_an_error_and_no_end_mark(
    upstream: ScriptedUpstream, tmp_path: Path, name: str
):
    path, body, _ = STREAMED[name]
    with ScriptedUpstream() as other:
        with running_gateway(
            tmp_path, with_fallback(upstream.base_url, other.base_url, idle_s=0.3)
        ) as gateway:
            for count, (fault, script) in enumerate(BREAKING.items(), 1):
                upstream.default = script
                answer = ask(gateway, path, body)
                *_, last = [part for part in answer.content.split(b"\n\n") if part]
                error = json.loads(last.removeprefix(b"data: "))
                assert answer.content.startswith(FIRST), fault
                assert error.get("object") == "error" or error["error"]["message"], fault
                assert b"[DONE]" not in answer.content, fault
                assert gateway.traces(count)[-1].outcome in {"truncated", "upstream_error"}, fault
        assert other.received == []


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
