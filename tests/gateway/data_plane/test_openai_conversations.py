"""The same conversation through the official client gives identical objects with and without the gateway."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.converser import CITY, converses
from tests.support.openai_client import KINDS, Kind, Talk, converse
from tests.support.request_path import RunningGateway
from tests.support.upstream import ScriptedUpstream

PICTURE = "data:image/png;base64,iVBORw0KGgo="
USAGE: Any = {"include_usage": True}


class City(BaseModel):
    """What is asked for as a structured output."""

    city: str
    degrees: float


class Weather(BaseModel):
    """The arguments of a tool."""

    city: str


SCHEMA = Weather.model_json_schema()
CHAT_TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "time")
]
TOOLS: Any = [
    {"type": "function", "name": name, "parameters": SCHEMA, "strict": False} for name in ("weather", "time")
]
PARSED_TOOLS: Any = [openai.pydantic_function_tool(Weather, name="weather")]
SEES: Any = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
    {"type": "image_url", "image_url": {"url": "https://example.com/ü.png"}},
]


def tool_results(calls: Any) -> list[Any]:
    return [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}: 3.5"} for call in calls
    ]


def outputs(response: Any) -> list[Any]:
    calls = [item for item in response.output if item.type == "function_call"]
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{call.name}: 3.5"}
        for call in calls
    ]


async def chat(talk: Talk) -> None:
    """Tools, their results, a question about pictures, several answers with their probabilities."""
    create = talk.client.chat.completions.create
    messages: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Wetter?"}]
    called = await talk.get(create(model="bot", messages=messages, tools=CHAT_TOOLS, tool_choice="auto"))
    calls = called.choices[0].message.tool_calls
    messages += [called.choices[0].message, *tool_results(calls)]
    spoken = await talk.get(create(model="bot", messages=messages, tools=CHAT_TOOLS, temperature=0.1))
    messages += [spoken.choices[0].message, {"role": "user", "content": SEES}]
    seen = await talk.get(create(model="bot", messages=messages, n=2, logprobs=True, top_logprobs=2, seed=7))

    assert [call.function.name for call in calls] == ["weather", "time"]
    assert "2 pictures" in seen.choices[1].message.content
    assert seen.choices[1].logprobs.content[0].logprob == -0.125


async def chat_streamed(talk: Talk) -> None:
    """The same, chunk by chunk; the second turn with its usage, the others without."""
    create = talk.client.chat.completions.create
    messages: list[Any] = [{"role": "user", "content": "Wetter?"}]
    chunks = await talk.take(create(model="bot", messages=messages, tools=CHAT_TOOLS, stream=True))
    begun = [chunk.choices[0].delta.tool_calls[0] for chunk in chunks if chunk.choices[0].delta.tool_calls]
    calls = [call for call in begun if call.id]
    messages += [
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": "{}"},
                }
                for call in calls
            ],
        },
        *tool_results(calls),
    ]
    told = await talk.take(create(model="bot", messages=messages, stream=True, stream_options=USAGE))
    messages.append({"role": "user", "content": SEES})
    several = await talk.take(create(model="bot", messages=messages, stream=True, n=3, logprobs=True))

    assert told[-1].usage.total_tokens == 13
    assert {choice.index for chunk in several for choice in chunk.choices} == {0, 1, 2}
    assert all(chunk.usage is None for chunk in [*chunks, *several])


async def chat_parsed(talk: Talk) -> None:
    """Structured outputs, of tools and of the answer."""
    parse = talk.client.chat.completions.parse
    messages: list[Any] = [{"role": "user", "content": "Wetter?"}]
    called = await talk.get(
        parse(model="bot", messages=messages, tools=PARSED_TOOLS, parallel_tool_calls=True)
    )
    calls = called.choices[0].message.tool_calls
    messages += [called.choices[0].message.model_dump(exclude_none=True), *tool_results(calls)]
    answered = await talk.get(
        parse(model="bot", messages=messages, tools=PARSED_TOOLS, response_format=City, n=2)
    )

    assert calls[0].function.parsed_arguments == Weather(city="Ulm")
    assert [choice.message.parsed for choice in answered.choices] == [City(**CITY)] * 2


async def chat_helped(talk: Talk) -> None:
    """The client's helper for streams: its events and what it makes of them."""
    stream = talk.client.chat.completions.stream
    messages: list[Any] = [{"role": "user", "content": "Wetter?"}]
    called = await talk.collect(
        stream(model="bot", messages=messages, tools=PARSED_TOOLS), "get_final_completion"
    )
    calls = called.choices[0].message.tool_calls
    messages += [called.choices[0].message.model_dump(exclude_none=True), *tool_results(calls)]
    answered = await talk.collect(
        stream(model="bot", messages=messages, response_format=City, logprobs=True, stream_options=USAGE),
        "get_final_completion",
    )

    assert calls[0].function.parsed_arguments == Weather(city="Ulm")
    assert answered.choices[0].message.parsed == City(**CITY)
    assert answered.usage.total_tokens == 13


async def completions(talk: Talk) -> None:
    create = talk.client.completions.create
    first = await talk.get(create(model="bot", prompt="Once", max_tokens=9, suffix="end", echo=True))
    more = await talk.get(create(model="bot", prompt=["Once" + first.choices[0].text, "b"], n=2, logprobs=1))

    assert len(more.choices) == 4
    assert more.choices[3].logprobs.text_offset[1] == 7


async def completions_streamed(talk: Talk) -> None:
    create = talk.client.completions.create
    first = await talk.take(create(model="bot", prompt="Once", stream=True))
    text = "".join(chunk.choices[0].text for chunk in first)
    more = await talk.take(
        create(model="bot", prompt=[text, "b"], n=2, logprobs=1, stream=True, stream_options=USAGE)
    )

    assert more[-1].usage.total_tokens == 13
    assert more[-2].choices[0].logprobs.tokens


async def embeddings(talk: Talk) -> None:
    create = talk.client.embeddings.create
    inputs: list[Any] = ["ü", ["a", "bc"], [1, 2, 3], [[1, 2], [3]]]
    decoded = [await talk.get(create(model="bot", input=each)) for each in inputs]
    plain = [await talk.get(create(model="bot", input=each, encoding_format="float")) for each in inputs]
    encoded = await talk.get(create(model="bot", input="ü", encoding_format="base64", dimensions=2))

    assert [each.data for each in decoded] == [each.data for each in plain]
    assert encoded.data[0].embedding == "AACAPwAAAD8="


async def responses(talk: Talk) -> None:
    """Tools and reasoning that are handed back, then a turn that goes on from an id."""
    create = talk.client.responses.create
    turns: list[Any] = [{"role": "user", "content": "Wetter?"}]
    called = await talk.get(
        create(model="bot", input=turns, tools=TOOLS, include=["reasoning.encrypted_content"])
    )
    turns += [*called.output, *outputs(called)]
    spoken = await talk.get(create(model="bot", input=turns, tools=TOOLS, reasoning={"effort": "low"}))
    sees: Any = [
        {"type": "input_text", "text": "And this?"},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
    ]
    asked: Any = [{"role": "user", "content": sees}]
    seen = await talk.get(create(model="bot", input=asked, previous_response_id=spoken.id, instructions="x"))

    assert [item.type for item in called.output] == ["reasoning", "function_call", "function_call"]
    assert seen.previous_response_id == spoken.id
    assert "1 pictures" in seen.output_text


async def responses_streamed(talk: Talk) -> None:
    create = talk.client.responses.create
    turns: list[Any] = [{"role": "user", "content": "Wetter?"}]
    called = (await talk.take(create(model="bot", input=turns, tools=TOOLS, stream=True)))[-1].response
    turns += [*called.output, *outputs(called)]
    events = await talk.take(create(model="bot", input=turns, tools=TOOLS, stream=True))
    spoken = events[-1].response
    deltas = [each.delta for each in events if each.type == "response.output_text.delta"]
    more = await talk.take(create(model="bot", input="And now?", previous_response_id=spoken.id, stream=True))

    assert "".join(deltas) == spoken.output_text
    assert more[-1].response.previous_response_id == spoken.id


async def responses_parsed(talk: Talk) -> None:
    parse = talk.client.responses.parse
    tools: Any = [openai.pydantic_function_tool(Weather, name="weather")["function"]]
    typed_tools: Any = [{"type": "function", **tools[0]}]
    called = await talk.get(parse(model="bot", input="Wetter?", tools=typed_tools))
    answered = await talk.get(
        parse(model="bot", input=outputs(called), previous_response_id=called.id, text_format=City)
    )

    assert answered.output_parsed == City(**CITY)


async def responses_helped(talk: Talk) -> None:
    stream = talk.client.responses.stream
    called = await talk.collect(stream(model="bot", input="Wetter?", tools=TOOLS), "get_final_response")
    answered = await talk.collect(
        stream(model="bot", input=outputs(called), previous_response_id=called.id, text_format=City),
        "get_final_response",
    )

    assert answered.output_parsed == City(**CITY)


CONVERSATIONS: dict[str, tuple[Callable[[Talk], Awaitable[None]], str]] = {
    "chat": (chat, "/v1/chat/completions"),
    "chat, streamed": (chat_streamed, "/v1/chat/completions"),
    "chat, parsed": (chat_parsed, "/v1/chat/completions"),
    "chat, helped": (chat_helped, "/v1/chat/completions"),
    "completions": (completions, "/v1/completions"),
    "completions, streamed": (completions_streamed, "/v1/completions"),
    "embeddings": (embeddings, "/v1/embeddings"),
    "responses": (responses, "/v1/responses"),
    "responses, streamed": (responses_streamed, "/v1/responses"),
    "responses, parsed": (responses_parsed, "/v1/responses"),
    "responses, helped": (responses_helped, "/v1/responses"),
}


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_the_same(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str, kind: Kind
):
    conversation, endpoint = CONVERSATIONS[name]
    upstream.default = converses
    through = converse(kind, gateway.base_url, conversation)
    turns = len(upstream.received)
    direct = converse(kind, upstream.base_url, conversation)
    traces = gateway.traces(turns)

    assert through == direct
    assert len(upstream.received) == turns * 2
    assert [(trace.endpoint, trace.outcome) for trace in traces] == [(endpoint, "ok")] * turns
    assert {each.json()["model"] for each in upstream.received[:turns]} == {"served-model"}


def test_an_upstream_that_converses_answers_another_request_otherwise(upstream: ScriptedUpstream):
    upstream.default = converses
    answers: list[str] = []
    for temperature in (0.1, 0.10000001):

        async def once(talk: Talk, temperature: float = temperature) -> None:
            messages: Any = [{"role": "user", "content": "hi"}]
            await talk.get(
                talk.client.chat.completions.create(model="m", messages=messages, temperature=temperature)
            )

        answers.append(json.dumps(converse("sync", upstream.base_url, once)))

    assert answers[0] != answers[1]
