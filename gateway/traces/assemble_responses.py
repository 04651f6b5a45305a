"""Assembles the event stream of `/v1/responses` into the response object that a buffered call returns.

The stream ends with the whole response; only one that broke off is put together from its items and deltas.
"""

from __future__ import annotations

from typing import Any

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")


def is_response_event(chunk: dict[str, Any]) -> bool:
    """Whether *chunk* is an event of the Responses API."""
    kind = chunk.get("type")
    return isinstance(kind, str) and kind.startswith("response.")


def assemble_responses(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response of *events*, in order; an error in band is kept under `error`."""
    response: dict[str, Any] = {"object": "response"}
    items: dict[int, dict[str, Any]] = {}
    for event in events:
        snapshot = event.get("response")
        if isinstance(snapshot, dict):
            response = dict(snapshot)
            if event.get("type") in _TERMINAL:
                return response
        elif event.get("type") == "error" or "error" in event:
            response["error"] = event.get("error", event)
        else:
            _apply(items, event)
    if items:
        response["output"] = [items[index] for index in sorted(items)]
    return response


def _apply(items: dict[int, dict[str, Any]], event: dict[str, Any]) -> None:
    index = event.get("output_index")
    if not isinstance(index, int):
        return
    item = event.get("item")
    if isinstance(item, dict):  # output_item.added, output_item.done
        items[index] = item
        return
    into = items.setdefault(index, {"type": "message", "role": "assistant", "content": []})
    delta = event.get("delta")
    if not isinstance(delta, str):
        return
    if event["type"] == "response.function_call_arguments.delta":
        into["arguments"] = into.get("arguments", "") + delta
    elif event["type"] in ("response.output_text.delta", "response.refusal.delta"):
        field, kind = ("text", "output_text") if "text" in event["type"] else ("refusal", "refusal")
        parts = into.setdefault("content", [])
        at = event.get("content_index", 0)
        while isinstance(at, int) and len(parts) <= at < len(parts) + 1:
            parts.append({"type": kind, field: ""})
        if isinstance(at, int) and 0 <= at < len(parts) and isinstance(parts[at], dict):
            parts[at][field] = parts[at].get(field, "") + delta
