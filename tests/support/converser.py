"""An upstream that converses: what it says depends on all that it was asked, on every endpoint, streamed or not.

It calls its tools first and then speaks of what they gave; it answers in JSON where a schema was asked for. In
every answer is a digest of the request, so that one that changed on its way gives another answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tests.support.legacy import embeddings
from tests.support.responses import RESPONSE_USAGE, numbered, response_object, typed
from tests.support.upstream import DONE, USAGE, Received, Reply, event, send_events

CITY = {"city": "Ulm", "degrees": 3.5}
_PIECE_CHARS = 7


async def converses(received: Received, reply: Reply) -> None:
    """A script."""
    asked = received.json()
    if received.target == "/v1/embeddings":
        vectors = [[len(json.dumps(each)) / 8, 0.5] for each in _list(asked["input"])]
        answer: Any = embeddings(*vectors, encoding=asked.get("encoding_format", "float"))
    elif received.target == "/v1/responses":
        answer = _response(asked)
    else:
        answer = _completion(asked, is_chat=received.target == "/v1/chat/completions")
    if not asked.get("stream"):
        await reply.whole(json.dumps(answer).encode(), 200, ("content-type", "application/json"))
    elif received.target == "/v1/responses":
        await send_events(reply, numbered(_response_events(answer)))
    else:
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        chunks = [*_chunks(answer), *([{**answer, "choices": []}] if usage else [])]
        for chunk in chunks:
            chunk["object"] = answer["object"].replace("chat.completion", "chat.completion.chunk")
            if chunk["choices"] or not usage:
                chunk.pop("usage")
        await send_events(reply, [*(event(chunk) for chunk in chunks), DONE])


def _digest(asked: dict[str, Any]) -> str:
    """Of what the gateway may not change."""
    same = {key: value for key, value in asked.items() if key not in ("model", "stream_options")}
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:12]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _said(asked: dict[str, Any], turns: list[Any]) -> str:
    told = json.dumps(turns)
    images = told.count('"type": "image_url"') + told.count('"type": "input_image"')
    return f"Turn {len(turns)}, {images} pictures, wörd {_digest(asked)}."


# --- chat and completions


def _completion(asked: dict[str, Any], *, is_chat: bool) -> dict[str, Any]:
    count = asked.get("n") or 1
    prompts = 1 if is_chat else len(_list(asked["prompt"]))
    choice = _chat_choice if is_chat else _text_choice
    return {
        "id": f"cmpl-{_digest(asked)}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 1_700_000_000,
        "model": "upstream-model",
        "system_fingerprint": "fp_1",
        "service_tier": "default",
        "choices": [choice(asked, index) for index in range(count * prompts)],
        "usage": {**USAGE, "completion_tokens_details": {"reasoning_tokens": 1}},
    }


def _chat_choice(asked: dict[str, Any], index: int) -> dict[str, Any]:
    messages = asked["messages"]
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if asked.get("tools") and not any(each["role"] == "tool" for each in messages):
        message["tool_calls"] = [
            {
                "id": f"call_{index}_{number}",
                "type": "function",
                "function": {"name": tool["function"]["name"], "arguments": json.dumps({"city": "Ulm"})},
            }
            for number, tool in enumerate(asked["tools"])
        ]
        return {"index": index, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    text = json.dumps(CITY) if asked.get("response_format") else f"{index}: {_said(asked, messages)}"
    message["content"] = text
    logprobs = {"content": [_logprob(piece) for piece in _pieces(text)], "refusal": None}
    return {
        "index": index,
        "message": message,
        "finish_reason": "stop",
        "logprobs": logprobs if asked.get("logprobs") else None,
    }


def _text_choice(asked: dict[str, Any], index: int) -> dict[str, Any]:
    text = f"{index}: {_said(asked, _list(asked['prompt']))}"
    pieces = list(_pieces(text))
    logprobs = {
        "tokens": pieces,
        "token_logprobs": [-0.25] * len(pieces),
        "top_logprobs": [{piece: -0.25} for piece in pieces],
        "text_offset": [_PIECE_CHARS * number for number in range(len(pieces))],
    }
    return {
        "index": index,
        "text": text,
        "finish_reason": "length",
        "logprobs": logprobs if asked.get("logprobs") else None,
    }


def _logprob(piece: str) -> dict[str, Any]:
    return {"token": piece, "bytes": list(piece.encode()), "logprob": -0.125, "top_logprobs": []}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS]


def _chunks(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pieces of all choices, one of each in turn."""
    ways = [list(_choice_chunks(choice)) for choice in answer["choices"]]
    for number in range(max(len(way) for way in ways)):
        for way in ways:
            if number < len(way):
                yield {**answer, "choices": [way[number]]}


def _choice_chunks(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = {"index": choice["index"], "finish_reason": None, "logprobs": None}
    message = choice.get("message")
    if message is None:
        for piece in _pieces(choice["text"]):
            yield {**at, "text": piece}
        yield {**at, "text": "", "finish_reason": choice["finish_reason"], "logprobs": choice["logprobs"]}
        return
    yield {**at, "delta": {"role": "assistant", "content": None if message.get("tool_calls") else ""}}
    for number, call in enumerate(message.get("tool_calls", [])):
        begun = {**call, "index": number, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {**at, "delta": {"tool_calls": [begun]}}
        for piece in _pieces(call["function"]["arguments"]):
            yield {**at, "delta": {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}}
    for piece in _pieces(message["content"] or ""):
        logprobs = {"content": [_logprob(piece)], "refusal": None} if choice["logprobs"] else None
        yield {**at, "delta": {"content": piece}, "logprobs": logprobs}
    yield {**at, "delta": {}, "finish_reason": choice["finish_reason"]}


# --- responses


def _response(asked: dict[str, Any]) -> dict[str, Any]:
    turns = _list(asked["input"])
    digest = _digest(asked)
    output: list[dict[str, Any]] = [
        {
            "type": "reasoning",
            "id": f"rs_{digest}",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "gAAAA=",
        }
    ]
    answered = any(isinstance(each, dict) and each.get("type") == "function_call_output" for each in turns)
    if asked.get("tools") and not answered:
        output += [
            {
                "type": "function_call",
                "id": f"fc_{number}",
                "call_id": f"call_{number}",
                "name": tool["name"],
                "arguments": json.dumps({"city": "Ulm"}),
                "status": "completed",
            }
            for number, tool in enumerate(asked["tools"])
        ]
    else:
        has_schema = (asked.get("text") or {}).get("format", {}).get("type") == "json_schema"
        output.append(_message(json.dumps(CITY) if has_schema else _said(asked, turns), digest))
    return response_object(
        id=f"resp_{digest}",
        output=output,
        previous_response_id=asked.get("previous_response_id"),
        tools=asked.get("tools") or [],
        reasoning={"effort": "low", "summary": None},
        usage={**RESPONSE_USAGE, "output_tokens_details": {"reasoning_tokens": 1}},
    )


def _message(text: str, digest: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": f"msg_{digest}",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _response_events(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    yield typed("response.created", response=begun)
    yield typed("response.in_progress", response=begun)
    for index, item in enumerate(answer["output"]):
        at = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "reasoning":
                yield typed("response.output_item.added", output_index=index, item={**item, "summary": []})
                yield typed("response.reasoning_summary_text.delta", **at, summary_index=0, delta="hm")
            case "function_call":
                yield typed("response.output_item.added", output_index=index, item={**item, "arguments": ""})
                for piece in _pieces(item["arguments"]):
                    yield typed("response.function_call_arguments.delta", **at, delta=piece)
                done = {"name": item["name"], "arguments": item["arguments"]}
                yield typed("response.function_call_arguments.done", **at, **done)
            case _:
                yield from _message_events(item, at)
        yield typed("response.output_item.done", output_index=index, item=item)
    yield typed("response.completed", response=answer)


def _message_events(item: dict[str, Any], at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part = item["content"][0]
    where = {**at, "content_index": 0}
    yield typed("response.output_item.added", output_index=at["output_index"], item={**item, "content": []})
    yield typed("response.content_part.added", **where, part={**part, "text": ""})
    for piece in _pieces(part["text"]):
        yield typed("response.output_text.delta", **where, delta=piece, logprobs=[])
    yield typed("response.output_text.done", **where, text=part["text"], logprobs=[])
    yield typed("response.content_part.done", **where, part=part)
