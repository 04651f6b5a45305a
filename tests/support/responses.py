"""What an upstream says on `/v1/responses`: whole responses, and the events of streamed ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx

from tests.support.request_path import ROUTE, RunningGateway
from tests.support.upstream import Received, Reply, Script, streams_events

RESPONSE_USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 13,
}


def asked(**fields: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": ROUTE, "input": "hi", **fields}


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/responses", json=asked(**fields), timeout=10)


def message_item(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "id": "msg_1",
        "status": status,
        "role": "assistant",
        "content": [part] if text else [],
    }


def response_object(text: str = "hello", status: str = "completed", **fields: Any) -> dict[str, Any]:
    """A whole response; one that has begun (`in_progress`) has no output and no usage."""
    whole = status in ("completed", "incomplete")
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": "upstream-model",
        "output": [message_item(text)] if whole else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSE_USAGE if whole else None,
        **fields,
    }


FAILED = response_object(status="failed", error={"code": "server_error", "message": "it broke"})


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    """One event, without its number."""
    return {"type": kind, **fields}


def created(**fields: Any) -> dict[str, Any]:
    return typed("response.created", response=response_object(status="in_progress", **fields))


def item_added(**fields: Any) -> dict[str, Any]:
    item = {**message_item("", "in_progress"), **fields}
    return typed("response.output_item.added", output_index=0, item=item)


def text_delta(text: str) -> dict[str, Any]:
    return typed(
        "response.output_text.delta",
        item_id="msg_1",
        output_index=0,
        content_index=0,
        delta=text,
        logprobs=[],
    )


def ended(status: str = "completed", text: str = "", **fields: Any) -> dict[str, Any]:
    """The final event of a stream."""
    return typed(f"response.{status}", response=response_object(text, status, **fields))


def opening() -> list[dict[str, Any]]:
    """What says only that work has begun."""
    part = {"type": "output_text", "text": "", "annotations": []}
    return [
        created(),
        typed("response.in_progress", response=response_object(status="in_progress")),
        item_added(),
        typed("response.content_part.added", item_id="msg_1", output_index=0, content_index=0, part=part),
    ]


def whole_stream(pieces: Iterable[str], status: str = "completed") -> list[dict[str, Any]]:
    """The events of a whole streamed answer."""
    pieces = list(pieces)
    text = "".join(pieces)
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    return [
        *opening(),
        *(text_delta(piece) for piece in pieces),
        typed("response.output_text.done", **at, text=text, logprobs=[]),
        typed("response.content_part.done", **at, part=part),
        typed("response.output_item.done", output_index=0, item=message_item(text)),
        ended(status, text),
    ]


def numbered(events: Iterable[dict[str, Any]]) -> list[bytes]:
    """The events as they go over the wire, numbered from 0."""
    return [named({**event, "sequence_number": number}) for number, event in enumerate(events)]


def named(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def responds(text: str = "hello", **fields: Any) -> Script:
    """A buffered response."""
    body = json.dumps(response_object(text, **fields)).encode()

    async def script(received: Received, reply: Reply) -> None:
        await reply.whole(body, 200, ("content-type", "application/json"))

    return script


def streams_response(events: Iterable[dict[str, Any]], *, gap_s: float = 0.0, then: str = "end") -> Script:
    """These events, numbered. `then`: "end" the body, "close" or "reset" the connection, or "hang"."""
    return streams_events(numbered(events), gap_s=gap_s, then=then)
