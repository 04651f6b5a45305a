"""The official client, through the gateway and directly: the same objects."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.traces.types import PriceTerms
from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.upstream import (
    ScriptedUpstream,
    answers,
    answers_status,
    completion,
    delta,
    event,
    streams,
    streams_events,
    usage_chunk,
)

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def clients(gateway: RunningGateway, upstream: ScriptedUpstream) -> list[openai.OpenAI]:
    return [
        openai.OpenAI(base_url=url, api_key="client-key", max_retries=0)
        for url in (gateway.base_url, upstream.base_url)
    ]


def test_a_buffered_answer_is_the_same_object(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers("hello", unknown_field={"deep": [1, 2.50]})
    through, direct = (
        client.chat.completions.create(model="bot", messages=MESSAGES, temperature=0.2, user="ada")
        for client in clients(gateway, upstream)
    )

    assert through == direct
    assert through.unknown_field == {"deep": [1, 2.5]}


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_a_streamed_answer_is_the_same_objects(
    gateway: RunningGateway, upstream: ScriptedUpstream, options: dict[str, Any]
):
    upstream.default = streams(["Hel", "lo", " wörld"])
    through, direct = (
        list(client.chat.completions.create(model="bot", messages=MESSAGES, stream=True, **options))
        for client in clients(gateway, upstream)
    )

    assert through == direct
    assert (through[-1].usage is not None) is bool(options)


def test_tool_calls_and_reasoning_stream_through(gateway: RunningGateway, upstream: ScriptedUpstream):
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
    upstream.default = streams_events(
        [
            event(delta(role="assistant", reasoning_content="let me see")),
            event(delta(tool_calls=[call])),
            event(delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}])),
            event(delta(finish="tool_calls")),
            event(b"[DONE]"),
        ]
    )
    through, direct = (
        list(client.chat.completions.create(model="bot", messages=MESSAGES, stream=True))
        for client in clients(gateway, upstream)
    )

    assert through == direct


async def test_the_async_client_works_alike(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams(["a", "b"])
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(model="bot", messages=MESSAGES, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        upstream.default = answers("whole")
        answer = await client.chat.completions.create(model="bot", messages=MESSAGES)

    assert (text, answer.choices[0].message.content) == ("ab", "whole")


def test_completions_and_embeddings_pass_the_same_way(gateway: RunningGateway, upstream: ScriptedUpstream):
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
    bodies = {
        "/v1/embeddings": {"object": "list", "data": [vector], "model": "m", "usage": {"prompt_tokens": 1}},
        "/v1/completions": {
            **completion(),
            "object": "text_completion",
            "choices": [{"index": 0, "text": "x", "finish_reason": "stop", "logprobs": None}],
        },
    }
    for client in clients(gateway, upstream):
        upstream.then(
            answers_status(200, bodies["/v1/embeddings"]), answers_status(200, bodies["/v1/completions"])
        )
        embedded = client.embeddings.create(model="bot", input="x", encoding_format="float")
        completed = client.completions.create(model="bot", prompt="x")

        assert embedded.data[0].embedding == [0.5, -0.25]
        assert completed.choices[0].text == "x"
    assert [received.target for received in upstream.received[:2]] == ["/v1/embeddings", "/v1/completions"]
    assert [trace.endpoint for trace in gateway.traces(2)] == ["/v1/embeddings", "/v1/completions"]


def test_text_completions_stream(gateway: RunningGateway, upstream: ScriptedUpstream):
    choice = {"index": 0, "text": "x", "finish_reason": None, "logprobs": None}
    chunk = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    upstream.default = streams_events(
        [
            event({**chunk, "choices": [choice]}),
            event({**chunk, "choices": [{**choice, "text": "", "finish_reason": "stop"}]}),
            event({**chunk, "choices": [], "usage": usage_chunk()["usage"]}),
            event(b"[DONE]"),
        ]
    )
    client = clients(gateway, upstream)[0]
    chunks = list(client.completions.create(model="bot", prompt="x", stream=True))

    assert [each.choices[0].text for each in chunks] == ["x", ""]
    assert gateway.trace().outcome == "ok"


def test_an_upstreams_error_reaches_the_client_as_its_own(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    body = {
        "error": {"message": "bad temperature", "type": "invalid_request_error", "code": "x", "param": "t"}
    }
    upstream.default = answers_status(400, body)
    caught = []
    for client in clients(gateway, upstream):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model="bot", messages=MESSAGES)
        caught.append((error.value.status_code, error.value.body, error.value.code))

    assert caught[0] == caught[1]
    assert gateway.trace().outcome == "upstream_error"


def test_a_stream_that_breaks_off_is_an_error_to_the_client(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = streams_events([event(delta("half an"))], gap_s=0.05)
    stream = clients(gateway, upstream)[0].chat.completions.create(
        model="bot", messages=MESSAGES, stream=True
    )

    with pytest.raises(openai.APIError) as error:
        list(stream)
    assert error.value.code == "stream_truncated"


def test_models_lists_the_routes_and_what_may_be_pinned(gateway: RunningGateway, upstream: ScriptedUpstream):
    client = clients(gateway, upstream)[0]

    assert [model.id for model in client.models.list()] == ["bot", "bot@stable"]
    assert client.models.retrieve("bot").owned_by == "tracetune"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_trace_says_what_happened(upstream: ScriptedUpstream, tmp_path):
    prices = [{"model": "served-model", "input": 1, "output": 2, "cached_input": 0.5}]
    with running_gateway(tmp_path, config_for(upstream.base_url, prices=prices)) as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0)
        raw = client.chat.completions.with_raw_response.create(
            model="bot",
            messages=MESSAGES,
            safety_identifier="ada",
            metadata={"session_id": "s1"},
            extra_headers={"x-tracetune-tag-team": "blue", "traceparent": "00-ab-cd-01"},
        )
        trace = gateway.trace()

    assert raw.headers["x-tracetune-trace-id"] == trace.trace_id
    assert (raw.headers["x-tracetune-route"], raw.headers["x-tracetune-variant"]) == ("bot", "stable")
    assert (trace.route, trace.variant, trace.propensity) == ("bot", "stable", 1.0)
    assert (trace.session, trace.subject, trace.tags) == ("s1", "ada", {"team": "blue"})
    assert (trace.upstream, trace.model, trace.status, trace.outcome) == ("up", "served-model", 200, "ok")
    assert trace.price == PriceTerms(input=1, output=2, cached_input=0.5)
    assert trace.table_hash == gateway.state.live.table.hash
    assert trace.traceparent == "00-ab-cd-01"
    assert [(attempt.status, attempt.error) for attempt in trace.attempts] == [(200, None)]
    assert trace.latency_ms >= trace.attempts[0].ended_ms > trace.attempts[0].started_ms >= 0
    assert upstream.received[0].header("traceparent") == "00-ab-cd-01"
