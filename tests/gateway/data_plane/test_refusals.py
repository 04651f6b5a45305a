"""What was too long for a model may go to one with a larger context, and to no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.data_plane.refusals import is_too_long
from tests.support.request_path import RunningGateway, chat, running_gateway
from tests.support.responses import (
    opening,
    responds,
    response_object,
    streams_response,
    typed,
    whole_stream,
)
from tests.support.upstream import (
    DONE,
    Script,
    ScriptedUpstream,
    answers,
    answers_status,
    event,
    streams,
    streams_events,
)

# As OpenAI, vLLM (old and new), llama.cpp, Mistral and Anthropic say it.
TOO_LONG: list[Any] = [
    {"error": {"message": "x", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "code": 400},
    {
        "error": {
            "message": "The maximum context length is 4096 tokens.",
            "type": "BadRequestError",
            "code": 400,
        }
    },
    {"error": {"code": 400, "message": "x", "type": "exceed_context_size_error", "n_ctx": 4096}},
    {"object": "error", "message": "Prompt contains 9 tokens: too many tokens", "type": "invalid_request"},
    {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}},
]
OTHER: list[Any] = [
    {"error": {"message": "unknown field", "code": "invalid_value"}},
    {"error": {"message": "too many tokens a minute", "code": 429}},
    {"error": {"code": ["context_length_exceeded"], "type": {}, "message": []}},
    {"error": "maximum"},
    {"error": None},
    [],
    "context_length_exceeded",
]
OTHER_BYTES = [
    *(json.dumps(body).encode() for body in OTHER),
    b"",
    b"\xff",
    b"<html>",
    pytest.param(b'{"error":' + b"[" * 50_000, id="deep"),
]


@pytest.mark.parametrize("body", TOO_LONG)
def test_a_request_that_is_too_long_is_recognised(body: Any):
    assert is_too_long(json.dumps(body).encode())


@pytest.mark.parametrize("body", OTHER_BYTES)
def test_nothing_else_is_taken_for_it(body: bytes):
    assert not is_too_long(body)


@pytest.fixture
def upstreams() -> Iterator[list[ScriptedUpstream]]:
    with ScriptedUpstream() as short, ScriptedUpstream() as other, ScriptedUpstream() as long:
        yield [short, other, long]


def gateway_for(upstreams: list[ScriptedUpstream], directory: Path, *, larger: str = "long", **settings: Any):
    names = ["short", "other", "long"]
    config = {
        "upstreams": [
            {"name": name, "base_url": upstream.base_url, "retries": {"max": 2}, **settings}
            for name, upstream in zip(names, upstreams, strict=True)
        ],
        "routes": [
            {
                "model": "bot",
                "variants": [{"name": "stable", "upstream": "short", "model": "m"}],
                "fallbacks": [
                    {"upstream": name, "model": "m", "larger_context": name == larger} for name in names[1:]
                ],
            }
        ],
    }
    return running_gateway(directory, config)


def ask(gateway: RunningGateway) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=10)


def counts(upstreams: list[ScriptedUpstream]) -> list[int]:
    return [len(upstream.received) for upstream in upstreams]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_too_long_goes_to_the_larger_context_alone(
    upstreams: list[ScriptedUpstream], tmp_path: Path, status: int
):
    upstreams[0].default = answers_status(status, TOO_LONG[0])
    upstreams[2].default = answers("long answer")
    with gateway_for(upstreams, tmp_path) as gateway:
        answer = ask(gateway)
        trace = gateway.trace()

    assert answer.json()["choices"][0]["message"]["content"] == "long answer"
    assert counts(upstreams) == [1, 0, 1]
    assert (trace.variant, trace.upstream, trace.outcome) == ("stable", "long", "ok")


REFUSED = {"code": "context_length_exceeded", "message": "x"}
REFUSED_RESPONSE = response_object(status="failed", error=REFUSED, instructions="long " * 50_000)
IN_A_200: dict[str, tuple[str, bool, Script, Script]] = {
    "chat": ("/chat/completions", False, answers_status(200, {"error": REFUSED}), answers()),
    "chat, stream": (
        "/chat/completions",
        True,
        streams_events([b": hello\n\n", event({"error": REFUSED}), DONE]),
        streams(["a"]),
    ),
    "response": ("/responses", False, answers_status(200, REFUSED_RESPONSE), responds()),
    "response, stream": (
        "/responses",
        True,
        streams_response([*opening(), typed("response.failed", response=REFUSED_RESPONSE)]),
        streams_response(whole_stream(["a"])),
    ),
    "response, error event": (
        "/responses",
        True,
        streams_response([typed("error", param=None, **REFUSED)]),
        streams_response(whole_stream(["a"])),
    ),
}


@pytest.mark.parametrize("larger", ["long", "none"])
@pytest.mark.parametrize("name", IN_A_200)
def test_what_an_upstream_finds_too_long_after_its_200_is_dealt_with_alike(
    upstreams: list[ScriptedUpstream], tmp_path: Path, name: str, larger: str
):
    path, stream, upstreams[0].default, upstreams[2].default = IN_A_200[name]
    with gateway_for(upstreams, tmp_path, larger=larger) as gateway:
        body = {"model": "bot", "messages": [], "input": "hi", "stream": stream}
        answer = httpx.post(f"{gateway.base_url}{path}", json=body, timeout=10)
        trace = gateway.trace()

    assert answer.status_code == 200
    assert (b"context_length_exceeded" in answer.content) is (larger == "none")
    assert counts(upstreams) == [1, 0, int(larger == "long")]
    assert trace.outcome == ("ok" if larger == "long" else "upstream_error")


def test_any_other_400_stays_where_it_is(upstreams: list[ScriptedUpstream], tmp_path: Path):
    upstreams[0].default = answers_status(400, OTHER[0])
    with gateway_for(upstreams, tmp_path) as gateway:
        answer = ask(gateway)

    assert (answer.status_code, answer.json()) == (400, OTHER[0])
    assert counts(upstreams) == [1, 0, 0]


def test_a_limit_of_tokens_a_minute_is_no_context(upstreams: list[ScriptedUpstream], tmp_path: Path):
    upstreams[0].default = answers_status(429, {"error": {"message": "Too many tokens"}}, retry_after="60")
    with gateway_for(upstreams, tmp_path) as gateway:
        assert ask(gateway).status_code == 200

    assert counts(upstreams) == [1, 1, 0]


def test_what_was_too_long_for_one_is_not_sent_to_its_like_after_the_larger_one_failed(
    upstreams: list[ScriptedUpstream], tmp_path: Path
):
    short, like, larger = upstreams
    short.default = answers_status(400, TOO_LONG[0])
    larger.default = answers_status(503)
    with gateway_for([short, larger, like], tmp_path, larger="other") as gateway:
        assert ask(gateway).status_code == 503

    assert counts([short, larger, like]) == [1, 3, 0]


def test_the_larger_context_is_asked_though_it_is_ejected_where_no_other_can_answer(
    upstreams: list[ScriptedUpstream], tmp_path: Path
):
    short, like, larger = upstreams
    short.default = answers_status(400, TOO_LONG[0])
    larger.default = answers_status(503)
    ejection = {"consecutive": 1, "base_s": 30}
    with gateway_for([short, larger, like], tmp_path, larger="other", ejection=ejection) as gateway:
        assert ask(gateway).status_code == 503
        larger.default = answers()
        assert ask(gateway).status_code == 200

    assert like.received == []


def test_the_last_response_comes_back_where_the_larger_context_fails_too(
    upstreams: list[ScriptedUpstream], tmp_path: Path
):
    upstreams[0].default = answers_status(400, TOO_LONG[0])
    upstreams[2].default = answers_status(503)
    with gateway_for(upstreams, tmp_path) as gateway:
        answer = ask(gateway)

    assert answer.status_code == 503
    assert counts(upstreams) == [1, 0, 3]


def test_a_larger_context_also_answers_what_failed_otherwise(
    upstreams: list[ScriptedUpstream], tmp_path: Path
):
    upstreams[0].default = answers_status(401)
    upstreams[1].default = answers_status(401)
    with gateway_for(upstreams, tmp_path) as gateway:
        assert ask(gateway).status_code == 200
    assert counts(upstreams) == [1, 1, 1]
