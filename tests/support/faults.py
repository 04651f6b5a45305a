"""The faults that an upstream can have before its first content, and what each endpoint is asked and answers."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.support.request_path import ROUTE, UPSTREAM_DEFAULTS, RunningGateway, chat, config_for
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
    """*timeouts* are those of the first upstream: the second is sound, and a busy machine may be slow with it."""
    ejection = {"consecutive": 100, "min_requests": 1000}
    config = config_for(one, retries={"max": 0}, ejection=ejection, timeouts=timeouts)
    config["upstreams"].append({"name": "other", **UPSTREAM_DEFAULTS, "base_url": other})
    config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "m"}]
    return config


def faults_of(name: str, *, streamed: bool) -> dict[str, Script]:
    return {**PASSING_STREAMED, **BY_ENDPOINT[name]} if streamed else PASSING_WHOLE
