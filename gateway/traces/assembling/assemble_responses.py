"""Assembles the event stream of `/v1/responses` into the response object that a buffered call returns.

The stream ends with the whole response; only one that broke off is put together from its items and deltas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class _Place(NamedTuple):
    """Where a delta belongs: in `field` of its item, or of that part of the item's `parts` that `at` says."""

    item_type: str
    field: str
    parts: str = ""  # "content" or "summary"
    at: str = ""  # the event's field with the part's number
    part_type: str = ""


_PLACES = {
    "response.output_text.delta": _Place("message", "text", "content", "content_index", "output_text"),
    "response.refusal.delta": _Place("message", "refusal", "content", "content_index", "refusal"),
    "response.reasoning_text.delta": _Place(
        "reasoning", "text", "content", "content_index", "reasoning_text"
    ),
    "response.reasoning_summary_text.delta": _Place(
        "reasoning", "text", "summary", "summary_index", "summary_text"
    ),
    "response.function_call_arguments.delta": _Place("function_call", "arguments"),
    "response.custom_tool_call_input.delta": _Place("custom_tool_call", "input"),
    "response.mcp_call_arguments.delta": _Place("mcp_call", "arguments"),
    "response.code_interpreter_call_code.delta": _Place("code_interpreter_call", "code"),
}
_PARTS_ADDED = {
    "response.content_part.added": ("content", "content_index"),
    "response.reasoning_summary_part.added": ("summary", "summary_index"),
}


def is_response_event(chunk: dict[str, Any]) -> bool:
    """Whether *chunk* is an event of the Responses API."""
    kind = chunk.get("type")
    if kind == "error":
        return "sequence_number" in chunk  # chat streams have errors of another shape
    return isinstance(kind, str) and kind.startswith("response.")


def assemble_responses(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response of *events*, in order; an error in band is kept under `error`."""
    for event in reversed(events):
        if event.get("type") in _TERMINAL and isinstance(event.get("response"), dict):
            whole: dict[str, Any] = event["response"]
            return whole
    response: dict[str, Any] = {"object": "response"}
    output = _Output()
    for event in events:
        snapshot = event.get("response")
        if isinstance(snapshot, dict):
            response = dict(snapshot)
        elif event.get("type") == "error" or "error" in event:
            response["error"] = event.get("error", event)
        else:
            output.add(event)
    items = output.finish()
    if items:
        response["output"] = items
    return response


class _Output:
    """The items of a response under construction. Joining fragments once keeps long streams linear."""

    def __init__(self) -> None:
        self._items: dict[int, dict[str, Any]] = {}
        self._fragments: dict[tuple[int, int | None, str], tuple[dict[str, Any], list[str]]] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Apply one event; what it says of no place that we know is left out."""
        kind, index = event.get("type"), event.get("output_index")
        if not isinstance(index, int) or not isinstance(kind, str):
            return
        item = event.get("item")
        if isinstance(item, dict):  # output_item.added, output_item.done
            self._items[index] = item
            self._fragments = {key: held for key, held in self._fragments.items() if key[0] != index}
        elif kind in _PARTS_ADDED and isinstance(event.get("part"), dict):
            name, at = _PARTS_ADDED[kind]
            self._part(self._item(index, "message"), name, event.get(at, 0), event["part"])
        elif kind in _PLACES and isinstance(event.get("delta"), str):
            self._continue(index, _PLACES[kind], event)

    def finish(self) -> list[dict[str, Any]]:
        """The items in order, their texts joined."""
        for (_, _, field), (holder, parts) in self._fragments.items():
            holder[field] = "".join(parts)
        return [self._items[index] for index in sorted(self._items)]

    def _item(self, index: int, kind: str) -> dict[str, Any]:
        item = self._items.get(index)
        if item is None:
            item = self._items[index] = {"type": kind}
            if kind == "message":
                item |= {"role": "assistant", "content": []}
        return item

    def _continue(self, index: int, place: _Place, event: dict[str, Any]) -> None:
        holder: dict[str, Any] | None = self._item(index, place.item_type)
        at = None
        if place.parts:
            at = event.get(place.at, 0)
            new = {"type": place.part_type, place.field: ""}
            holder = self._part(self._item(index, place.item_type), place.parts, at, new)
        if holder is None:
            return
        key = (index, at, place.field)
        if key not in self._fragments:
            first = holder.get(place.field)
            self._fragments[key] = (holder, [first if isinstance(first, str) else ""])
        self._fragments[key][1].append(event["delta"])

    def _part(self, item: dict[str, Any], name: str, at: Any, new: dict[str, Any]) -> dict[str, Any] | None:
        """Part *at* of the item's list *name*, which is *new* where there was none."""
        parts = item.get(name)
        if not isinstance(parts, list):
            parts = item[name] = []
        if not isinstance(at, int) or not 0 <= at <= len(parts):
            return None
        if at == len(parts):
            parts.append(new)
        part = parts[at]
        return part if isinstance(part, dict) else None
