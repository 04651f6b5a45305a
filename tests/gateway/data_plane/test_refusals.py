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
from tests.support.upstream import ScriptedUpstream, answers, answers_status

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
    {"error": "maximum"},
    {"error": None},
    [],
    "context_length_exceeded",
]


@pytest.mark.parametrize("body", TOO_LONG)
def test_a_request_that_is_too_long_is_recognised(body: Any):
    assert is_too_long(json.dumps(body).encode())


@pytest.mark.parametrize("body", [*(json.dumps(body).encode() for body in OTHER), b"", b"\xff", b"<html>"])
def test_nothing_else_is_taken_for_it(body: bytes):
    assert not is_too_long(body)


@pytest.fixture
def upstreams() -> Iterator[list[ScriptedUpstream]]:
    with ScriptedUpstream() as short, ScriptedUpstream() as other, ScriptedUpstream() as long:
        yield [short, other, long]


def gateway_for(upstreams: list[ScriptedUpstream], directory: Path):
    names = ["short", "other", "long"]
    config = {
        "upstreams": [
            {"name": name, "base_url": upstream.base_url, "retries": {"max": 2}}
            for name, upstream in zip(names, upstreams, strict=True)
        ],
        "routes": [
            {
                "model": "bot",
                "variants": [{"name": "stable", "upstream": "short", "model": "m"}],
                "fallbacks": [
                    {"upstream": "other", "model": "m"},
                    {"upstream": "long", "model": "m", "larger_context": True},
                ],
            }
        ],
    }
    return running_gateway(directory, config)


def ask(gateway: RunningGateway) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=10)


def counts(upstreams: list[ScriptedUpstream]) -> list[int]:
    return [len(upstream.received) for upstream in upstreams]


def test_what_is_too_long_goes_to_the_larger_context_alone(upstreams: list[ScriptedUpstream], tmp_path: Path):
    upstreams[0].default = answers_status(400, TOO_LONG[0])
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


def test_the_refusal_comes_back_where_the_larger_context_fails_too(
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
