"""The official client raises the same through the gateway as directly, and what breaks off is an error to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.openai_client import KINDS, Call, Kind, see
from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.responses import FAILED, numbered, opening, streams_response, text_delta, typed
from tests.support.upstream import (
    Script,
    ScriptedUpstream,
    answers_status,
    delta,
    event,
    streams_events,
)

MESSAGES: Any = [{"role": "user", "content": "hi"}]
CALLS: dict[str, Call] = {
    "chat": lambda client: client.chat.completions.create(model="bot", messages=MESSAGES),
    "chat, stream": lambda client: client.chat.completions.create(
        model="bot", messages=MESSAGES, stream=True
    ),
    "completions": lambda client: client.completions.create(model="bot", prompt="x"),
    "completions, stream": lambda client: client.completions.create(model="bot", prompt="x", stream=True),
    "embeddings": lambda client: client.embeddings.create(model="bot", input="x"),
    "responses": lambda client: client.responses.create(model="bot", input="x"),
    "responses, stream": lambda client: client.responses.create(model="bot", input="x", stream=True),
}
STATUSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
}
ERROR = {"message": "it broke", "type": "server_error", "code": "x", "param": "t"}
TEXT = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
FIRST = {
    "chat, stream": event(delta("half an")),
    "completions, stream": event(
        {**TEXT, "choices": [{"index": 0, "text": "half an", "finish_reason": None, "logprobs": None}]}
    ),
}
BEGUN = [*opening(), text_delta("half an")]
RESPONSE_FAILED = typed("response.failed", response=FAILED)
TYPED_ERROR = typed("error", code="server_error", message="it broke", param=None)
GAP_S = 0.05  # so that the first content is with the client before the stream ends


@pytest.fixture
def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """One that asks once, as a client without retries does."""
    with running_gateway(tmp_path, config_for(upstream.base_url, retries={"max": 0})) as running:
        yield running


def refuses(status: int, body: Any = None) -> Script:
    return answers_status(
        status,
        body or {"error": {**ERROR, "message": f"refused with {status}"}},
        ("x-request-id", "req_9"),
        ("x-ratelimit-remaining-requests", "0"),
        retry_after="7",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_refusal_raises_the_same(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str, kind: Kind
):
    for status, raised in STATUSES.items():
        upstream.default = refuses(status)
        through, direct = (see(kind, url, CALLS[name]) for url in (gateway.base_url, upstream.base_url))

        assert through == direct
        assert through.error is not None
        assert (through.error["class"], through.error["status"]) == (raised, status)
        assert (through.error["code"], through.error["request_id"]) == ("x", "req_9")
        assert through.error["headers"]["retry-after"] == "7"
    assert {trace.outcome for trace in gateway.traces(len(STATUSES))} == {"upstream_error"}
    assert [trace.status for trace in gateway.traces(len(STATUSES))] == list(STATUSES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [{"detail": "not found"}, {"error": "a mere text"}, {"message": "x", "code": 40_301}, ["a list"], "text"],
    ids=["detail", "text inside", "flat", "list", "text"],
)
def test_a_refusal_of_another_shape_raises_the_same(
    gateway: RunningGateway, upstream: ScriptedUpstream, body: Any, kind: Kind
):
    upstream.default = refuses(422, body)
    through, direct = (see(kind, url, CALLS["chat"]) for url in (gateway.base_url, upstream.base_url))

    assert through == direct
    assert through.error is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [409, 429, 500])
def test_a_refusal_that_is_retried_in_vain_raises_the_same(
    upstream: ScriptedUpstream, tmp_path: Path, status: int, kind: Kind
):
    upstream.default = answers_status(status, {"error": ERROR}, ("x-request-id", "req_9"), retry_after="0")
    with running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        through, direct = (see(kind, url, CALLS["chat"]) for url in (gateway.base_url, upstream.base_url))

        assert through == direct
        assert len(gateway.trace().attempts) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in CALLS if "stream" not in name])
@pytest.mark.parametrize("body", [{"error": ERROR}, FAILED], ids=["bare error", "failed response"])
def test_an_error_inside_a_200_is_the_same_object(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str, body: Any, kind: Kind
):
    upstream.default = answers_status(200, body)
    through, direct = (see(kind, url, CALLS[name]) for url in (gateway.base_url, upstream.base_url))

    assert through == direct
    assert gateway.trace().outcome == "upstream_error"


IN_BAND: dict[str, tuple[str, list[bytes]]] = {
    "chat, first": ("chat, stream", [event({"error": ERROR})]),
    "chat, midway": ("chat, stream", [FIRST["chat, stream"], event({"error": ERROR})]),
    "completions, first": ("completions, stream", [event({"error": ERROR})]),
    "completions, midway": ("completions, stream", [FIRST["completions, stream"], event({"error": ERROR})]),
    "responses, first": ("responses, stream", numbered([TYPED_ERROR])),
    "responses, opening": ("responses, stream", numbered([*opening(), TYPED_ERROR])),
    "responses, midway": ("responses, stream", numbered([*BEGUN, TYPED_ERROR])),
    "responses, nested": ("responses, stream", numbered([*BEGUN, {**TYPED_ERROR, "error": ERROR}])),
    "responses, failed first": ("responses, stream", numbered([RESPONSE_FAILED])),
    "responses, failed midway": ("responses, stream", numbered([*BEGUN, RESPONSE_FAILED])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IN_BAND)
def test_an_error_inside_a_stream_is_the_same(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str, kind: Kind
):
    call, events = IN_BAND[name]
    upstream.default = streams_events(events, gap_s=GAP_S)
    through, direct = (see(kind, url, CALLS[call]) for url in (gateway.base_url, upstream.base_url))

    assert through == direct
    assert gateway.trace().outcome == "upstream_error"
    if call != "responses, stream" or name.endswith("nested"):
        assert through.error is not None
        assert (through.error["class"], through.error["code"]) == ("APIError", "x")
    else:
        assert through.objects[-1][0] in ("ResponseErrorEvent", "ResponseFailedEvent")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FIRST)
def test_a_stream_that_breaks_off_raises(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str, kind: Kind
):
    upstream.default = streams_events([FIRST[name]], gap_s=GAP_S)
    through, direct = (see(kind, url, CALLS[name]) for url in (gateway.base_url, upstream.base_url))

    assert through.objects == direct.objects
    assert direct.error is None  # which is why the gateway tells
    assert through.error is not None
    assert (through.error["class"], through.error["code"]) == ("APIError", "stream_truncated")


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_that_breaks_off_ends_in_an_error_event(
    gateway: RunningGateway, upstream: ScriptedUpstream, kind: Kind
):
    upstream.default = streams_response(BEGUN, gap_s=GAP_S)
    call = CALLS["responses, stream"]
    through, direct = (see(kind, url, call) for url in (gateway.base_url, upstream.base_url))
    *same, (last, error) = through.objects

    assert same == direct.objects
    assert (last, error["code"], error["param"]) == ("ResponseErrorEvent", "stream_truncated", None)
    assert error["sequence_number"] == len(BEGUN)


def test_a_response_that_breaks_off_has_no_final_one(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams_response(BEGUN, gap_s=GAP_S)
    client = openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0)

    with (
        client.responses.stream(model="bot", input="hi") as stream,
        pytest.raises(RuntimeError, match=r"response\.completed"),
    ):
        stream.get_final_response()
