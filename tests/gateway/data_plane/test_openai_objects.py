"""The official client gets the same objects through the gateway as directly, on every endpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import openai
import pytest
from openai.types import Model

from tests.support.legacy import embeds, streams_text, text_completion
from tests.support.openai_client import KINDS, Call, Kind, see
from tests.support.request_path import RunningGateway
from tests.support.responses import (
    ended,
    message_item,
    opening,
    responds,
    streams_response,
    text_delta,
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

MESSAGES: Any = [{"role": "user", "content": "hi"}]
USAGE: Any = {"stream_options": {"include_usage": True}}
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
FUNCTION_CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}


class Case(NamedTuple):
    """What the upstream does, what the client calls, and the endpoint of its trace."""

    script: Script
    call: Call
    endpoint: str
    streamed: bool = False


def chat(script: Script, **fields: Any) -> Case:
    fields = {"messages": MESSAGES, **fields}
    return _case(script, lambda client: client.chat.completions.create, "/v1/chat/completions", fields)


def completion(script: Script, **fields: Any) -> Case:
    fields = {"prompt": "once", **fields}
    return _case(script, lambda client: client.completions.create, "/v1/completions", fields)


def embedding(script: Script, **fields: Any) -> Case:
    return _case(script, lambda client: client.embeddings.create, "/v1/embeddings", {"input": "x", **fields})


def response(script: Script, **fields: Any) -> Case:
    fields = {"input": "hi", **fields}
    return _case(script, lambda client: client.responses.create, "/v1/responses", fields)


def _case(script: Script, method: Any, endpoint: str, fields: dict[str, Any]) -> Case:
    def call(client: Any) -> Any:
        return method(client)(model="bot", **fields)

    return Case(script, call, endpoint, bool(fields.get("stream")))


TOOL_STREAM = streams_events(
    [
        event(delta(role="assistant", reasoning_content="let me see")),
        event(delta(tool_calls=[{**TOOL_CALL, "index": 0, "function": {"name": "f", "arguments": '{"a":'}}])),
        event(delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}])),
        event(delta(finish="tool_calls")),
        DONE,
    ]
)
RESPONSE_TOOL_STREAM = streams_response(
    [
        *opening()[:2],
        typed("response.output_item.added", output_index=0, item={**REASONING, "summary": []}),
        typed(
            "response.reasoning_summary_text.delta",
            item_id="rs_1",
            output_index=0,
            summary_index=0,
            delta="hm",
        ),
        typed("response.output_item.done", output_index=0, item=REASONING),
        typed("response.output_item.added", output_index=1, item={**FUNCTION_CALL, "arguments": ""}),
        typed("response.function_call_arguments.delta", item_id="fc_1", output_index=1, delta='{"a":1}'),
        typed(
            "response.function_call_arguments.done",
            item_id="fc_1",
            name="f",
            output_index=1,
            arguments='{"a":1}',
        ),
        typed("response.output_item.done", output_index=1, item=FUNCTION_CALL),
        ended(output=[REASONING, FUNCTION_CALL]),
    ]
)

CASES = {
    "chat": chat(answers("hello", unknown_field={"deep": [1, 2.50]}), temperature=0.2, user="ada"),
    "chat, tools": chat(
        answers(
            choices=[
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
                    "finish_reason": "tool_calls",
                }
            ]
        )
    ),
    "chat, stream": chat(streams(["Hel", "lo", " wörld"]), stream=True),
    "chat, stream, usage": chat(streams(["Hel", "lo"]), stream=True, **USAGE),
    "chat, stream, tools and reasoning": chat(TOOL_STREAM, stream=True),
    "completions": completion(answers_status(200, text_completion("x", unknown=[1]))),
    "completions, several": completion(
        answers_status(200, text_completion("a", "b", "c", "d")), prompt=["one", "two"], n=2
    ),
    "completions, tokens": completion(answers_status(200, text_completion("x")), prompt=[1, 2, 3]),
    "completions, stream": completion(streams_text(["a", "b"]), stream=True),
    "completions, stream, usage": completion(streams_text(["a", "b"]), stream=True, **USAGE),
    "completions, stream, several": completion(
        streams_text(["a"], prompts=2), prompt=["one", "two"], stream=True
    ),
    "embeddings": embedding(embeds([0.5, -0.25], [1.0, 0.0]), input=["x", "y"]),  # asks for base64 itself
    "embeddings, floats": embedding(embeds([0.5, -0.25]), encoding_format="float"),
    "embeddings, base64": embedding(embeds([0.5, -0.25]), encoding_format="base64", dimensions=2),
    "responses": response(responds("hello", unknown_field={"deep": [1, 2.50]}), temperature=0.2, user="ada"),
    "responses, tools": response(responds(output=[REASONING, FUNCTION_CALL, message_item("done")])),
    "responses, incomplete": response(responds(status="incomplete"), max_output_tokens=16),
    "responses, background": response(responds(status="queued", background=True), background=True),
    "responses, stream": response(streams_response(whole_stream(["Hel", "lo", " wörld"])), stream=True),
    "responses, stream, incomplete": response(
        streams_response(whole_stream(["Hel"], "incomplete")), stream=True
    ),
    "responses, stream, tools and reasoning": response(RESPONSE_TOOL_STREAM, stream=True),
    "responses, stream, unknown events": response(
        streams_response(
            [*opening(), typed("keepalive"), typed("response.next_year", new=[1]), text_delta("x"), ended()]
        ),
        stream=True,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_the_objects_are_the_same(gateway: RunningGateway, upstream: ScriptedUpstream, name: str, kind: Kind):
    case = CASES[name]
    upstream.default = case.script
    through, direct = (see(kind, url, case.call) for url in (gateway.base_url, upstream.base_url))
    trace = gateway.trace()

    assert through == direct
    assert through.error is None
    assert len(through.objects) > 1 if case.streamed else len(through.objects) == 1
    assert (trace.endpoint, trace.outcome, trace.stream) == (case.endpoint, "ok", case.streamed)
    assert [each.target for each in upstream.received] == [case.endpoint] * 2
    sent, direct_sent = (each.json() for each in upstream.received)
    assert {**sent, "model": "bot", "stream_options": None} == {**direct_sent, "stream_options": None}


@pytest.mark.parametrize("name", ["chat, stream", "chat, stream, usage"])
def test_usage_comes_last_where_it_was_asked_for_and_not_at_all_elsewhere(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    upstream.default = CASES[name].script
    last = see("sync", gateway.base_url, CASES[name].call).last

    assert (last["usage"] is not None) is name.endswith("usage")


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_decoded_alike_however_they_travel(
    gateway: RunningGateway, upstream: ScriptedUpstream, kind: Kind
):
    upstream.default = CASES["embeddings"].script
    by_default, as_floats = (
        see(kind, gateway.base_url, CASES[name].call).last for name in ("embeddings", "embeddings, floats")
    )

    assert by_default["data"] == as_floats["data"]
    assert [each.json()["encoding_format"] for each in upstream.received] == ["base64", "float"]


def test_the_helpers_that_collect_a_stream_collect_the_same(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    collected: list[list[dict[str, Any]]] = []
    for url in (gateway.base_url, upstream.base_url):
        client = openai.OpenAI(base_url=url, api_key="k", max_retries=0)
        upstream.then(CASES["responses, stream"].script, CASES["chat, stream"].script)
        with client.responses.stream(model="bot", input="hi") as response_stream:
            final = response_stream.get_final_response()
        with client.chat.completions.stream(model="bot", messages=MESSAGES) as chat_stream:
            whole = chat_stream.get_final_completion()
        collected.append([final.model_dump(), whole.model_dump()])

    assert collected[0] == collected[1]
    assert collected[0][0]["output"][0]["content"][0]["text"] == "Hello wörld"


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_are_the_routes(gateway: RunningGateway, upstream: ScriptedUpstream, kind: Kind):
    created = int(gateway.state.started_at)
    bot = Model(id="bot", created=created, object="model", owned_by="tracetune").model_dump()

    assert see(kind, gateway.base_url, lambda client: client.models.list()).last["data"][0] == bot
    assert see(kind, gateway.base_url, lambda client: client.models.retrieve("bot")).last == bot
    missing = see(kind, gateway.base_url, lambda client: client.models.retrieve("other")).error
    assert missing is not None
    assert (missing["class"], missing["code"]) == ("NotFoundError", "model_not_found")
    assert upstream.received == []
