"""What was too long for a model may go to one with a larger context, and to no other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.data_plane.refusals import is_too_long
from tests.support.request_path import UPSTREAM_DEFAULTS, RunningGateway, chat, running_gateway
from tests.support.responses import (
    asked,
    ended,
    numbered,
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
    delta,
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
    {"type": "error", "code": "context_length_exceeded", "message": "x"},
    {"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "x"}}},
    {"instructions": "x" * 200_000, "error": {"code": "context_length_exceeded", "message": "x"}},
]
OTHER: list[Any] = [
    {"error": {"message": "unknown field", "code": "invalid_value"}},
    {"error": {"message": "too many tokens a minute", "code": 429}},
    {"error": {"code": ["context_length_exceeded"], "type": {}, "message": []}},
    {"error": "maximum"},
    {"error": None},
    [],
    "context_length_exceeded",
    {"error": {"code": ["context_length_exceeded"], "type": {}, "message": ["prompt is too long"]}},
    {"response": ["context_length_exceeded"]},
]
OTHER_BYTES = [
    *(json.dumps(body).encode() for body in OTHER),
    b"",
    b"\xff",
    b"<html>",
    pytest.param(b'{"error":' + b"[" * 50_000, id="deep"),
]


NAMES = ("short", "other", "long")
DEEP = b'{"error":' + b"[" * 100_000


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


def gateway_for(upstreams: list[ScriptedUpstream], directory: Path, order: Sequence[str] = NAMES):
    """A route that asks its upstreams in *order*; only "long" has a larger context."""
    first, *others = order
    config = {
        "upstreams": [
            {
                "name": name,
                **UPSTREAM_DEFAULTS,
                "base_url": upstream.base_url,
                "retries": {"max": 2},
            }
            for name, upstream in zip(NAMES, upstreams, strict=True)
        ],
        "routes": [
            {
                "model": "bot",
                "variants": [{"name": "stable", "upstream": first, "model": "m"}],
                "fallbacks": [
                    {"upstream": name, "model": "m", "larger_context": name == "long"} for name in others
                ],
            }
        ],
    }
    return running_gateway(directory, config)


def ask(gateway: RunningGateway, path: str = "/chat/completions", body: Any = None) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}{path}", json=body or chat(), timeout=10)


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


def test_what_is_too_long_stays_so_where_the_larger_context_fails(
    upstreams: list[ScriptedUpstream], tmp_path: Path
):
    upstreams[0].default = answers_status(400, TOO_LONG[0])
    upstreams[2].default = answers_status(503)
    with gateway_for(upstreams, tmp_path, ["short", "long", "other"]) as gateway:
        assert ask(gateway).status_code == 503
    assert counts(upstreams) == [1, 0, 3]


def test_the_last_larger_context_is_asked_though_it_is_ejected(
    upstreams: list[ScriptedUpstream], tmp_path: Path
):
    upstreams[0].default = answers_status(400, TOO_LONG[0])
    upstreams[2].default = answers_status(503)
    with gateway_for(upstreams, tmp_path, ["short", "long", "other"]) as gateway:
        while not gateway.state.live.pools["long"].balancer.is_down(time.monotonic()):
            ask(gateway)
        upstreams[2].default = answers("long answer")
        assert ask(gateway).status_code == 200
    assert upstreams[1].received == []


# --- inside a 200

CODE = {"code": "context_length_exceeded", "message": "x"}
FAILED = response_object(status="failed", error=CODE)
FAILED_LONG = response_object(status="failed", error=CODE, instructions="x" * 200_000)
CHAT_STREAM, RESPONSES_STREAM = chat(stream=True), asked(stream=True)
ROLE = event(delta("", role="assistant"))
IN_A_200: dict[str, tuple[str, Any, Script, Script]] = {
    "chat": ("/chat/completions", chat(), answers_status(200, {"error": CODE}), answers("long")),
    "chat, bare": ("/chat/completions", chat(), answers_status(200, TOO_LONG[1]), answers("long")),
    "first event": (
        "/chat/completions",
        CHAT_STREAM,
        streams_events([event({"error": CODE}), DONE]),
        streams(["long"]),
    ),
    "first event, bare": (
        "/chat/completions",
        CHAT_STREAM,
        streams_events([event(TOO_LONG[1]), DONE]),
        streams(["long"]),
    ),
    "behind a role": (
        "/chat/completions",
        CHAT_STREAM,
        streams_events([ROLE, event({"error": CODE})]),
        streams(["long"]),
    ),
    "body of a stream": (
        "/chat/completions",
        CHAT_STREAM,
        answers_status(200, {"error": CODE}),
        streams(["long"]),
    ),
    "completions": (
        "/completions",
        {"model": "bot", "prompt": "x", "stream": True},
        streams_events([event({"error": CODE})]),
        streams(["long"]),
    ),
    "embeddings": (
        "/embeddings",
        {"model": "bot", "input": "x"},
        answers_status(200, {"error": CODE}),
        answers("long"),
    ),
    "responses": ("/responses", asked(), answers_status(200, FAILED), responds("long")),
    "responses, long": ("/responses", asked(), answers_status(200, FAILED_LONG), responds("long")),
    "response.failed": (
        "/responses",
        RESPONSES_STREAM,
        streams_response([*opening(), typed("response.failed", response=FAILED)]),
        streams_response(whole_stream(["long"])),
    ),
    "response.failed, long": (
        "/responses",
        RESPONSES_STREAM,
        streams_response([*opening(), typed("response.failed", response=FAILED_LONG)]),
        streams_response(whole_stream(["long"])),
    ),
    "error event": (
        "/responses",
        RESPONSES_STREAM,
        streams_events(numbered([*opening(), typed("error", param=None, **CODE)])),
        streams_response([*opening(), ended(text="long")]),
    ),
}


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("name", IN_A_200)
def test_what_is_too_long_moves_where_a_200_says_so(
    upstreams: list[ScriptedUpstream], tmp_path: Path, name: str
):
    path, body, upstreams[0].default, upstreams[2].default = IN_A_200[name]
    with gateway_for(upstreams, tmp_path) as gateway:
        answer = ask(gateway, path, body)
        trace = gateway.trace()

    assert b"long" in answer.content
    assert b"context_length_exceeded" not in answer.content
    assert counts(upstreams) == [1, 0, 1], "neither asked again nor of a fallback that is no larger"
    assert (trace.outcome, [attempt.error for attempt in trace.attempts]) == ("ok", ["error_in_200", None])


@pytest.mark.parametrize("name", IN_A_200)
def test_without_a_larger_context_it_passes_as_the_upstream_said_it(
    upstreams: list[ScriptedUpstream], tmp_path: Path, name: str
):
    path, body, upstreams[0].default, _ = IN_A_200[name]
    with gateway_for(upstreams, tmp_path, ["short", "other"]) as gateway:
        answer = ask(gateway, path, body)
        trace, kept = gateway.trace(), gateway.records()[0].response

    assert (
        answer.content
        == kept
        == httpx.post(f"{upstreams[0].base_url}{path}", json=body).content.removesuffix(DONE)
    )
    assert counts(upstreams)[1:] == [0, 0]
    assert (trace.outcome, trace.error) == ("upstream_error", "error_in_200")


def test_after_its_first_content_nothing_moves(upstreams: list[ScriptedUpstream], tmp_path: Path):
    events = [event(delta("half an")), event({"error": CODE})]
    upstreams[0].default = streams_events(events, gap_s=0.05)
    with gateway_for(upstreams, tmp_path) as gateway:
        answer = ask(gateway, "/chat/completions", CHAT_STREAM)

    assert answer.content == b"".join(events)
    assert counts(upstreams) == [1, 0, 0]
