"""Assembles a chat's event stream plainly: every chunk is decoded and merged by itself, text by text.

What `gateway.traces.assembling` does quickly is compared with this.
"""

from __future__ import annotations

from typing import Any

from gateway.traces.assembling.jsontext import parse_json_or_none

WHOLE = ("role", "type", "id", "object", "model", "format", "signature", "finish_reason")


class Joined(str):
    """A text made of fragments, which is continued."""

    __slots__ = ()


def assemble_plainly(body: bytes) -> dict[str, Any]:
    """The buffered shape of *body*, whose events are chunks of a chat, one a line; of none, one that is empty."""
    lines = [line for line in body.splitlines() if line.startswith(b"data:")]
    values = [parse_json_or_none(line.removeprefix(b"data:").strip()) for line in lines]
    chunks = [value for value in values if isinstance(value, dict)]
    top: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            if key == "choices":
                for choice in value:
                    _add(choices.setdefault(choice["index"], {"index": choice["index"]}), choice)
            elif value not in (None, "") or key not in top:
                top[key] = value
    legacy = bool(choices) and all("text" in choice for choice in choices.values())
    top["object"] = "text_completion" if legacy else "chat.completion"
    usage = top.pop("usage", None)
    assembled = {**top, "choices": [_finished(choices[index]) for index in sorted(choices)]}
    return assembled if usage is None else {**assembled, "usage": usage}


def _add(into: dict[str, Any], choice: dict[str, Any]) -> None:
    for key, value in choice.items():
        if key == "delta":
            into["message"] = merged("message", into.get("message"), value, in_delta=True)
        elif key != "index":
            into[key] = merged(key, into.get(key), value, in_delta=key == "text")


def merged(key: str, old: Any, new: Any, *, in_delta: bool) -> Any:
    """What *key* holds after *new*."""
    if new is None:
        return old
    if isinstance(new, dict):
        result = dict(old) if isinstance(old, dict) else {}
        for name, item in new.items():
            result[name] = merged(name, result.get(name), item, in_delta=in_delta)
        return result
    if isinstance(new, list):
        return _extended(old, new, in_delta=in_delta)
    if isinstance(new, str) and in_delta and key not in WHOLE:
        return _continued(key, old, new)
    return old if new == "" and old is not None else new


def _extended(old: Any, new: list[Any], *, in_delta: bool) -> list[Any]:
    if isinstance(old, Joined):
        old = [{"type": "text", "text": old}] if old else []
    items = list(old) if isinstance(old, list) else []
    for item in new:
        at = _continued_by(items, item)
        if at is not None:
            items[at] = merged("", items[at], item, in_delta=in_delta)
        else:
            items.append(merged("", None, item, in_delta=in_delta) if isinstance(item, dict) else item)
    return items


def _continued(key: str, old: Any, new: str) -> Any:
    if isinstance(old, list):
        last = old[-1] if old else None
        if isinstance(last, dict) and last.get("type") == "text" and isinstance(last.get("text"), Joined):
            return [*old[:-1], {**last, "text": Joined(last["text"] + new)}]
        return [*old, {"type": "text", "text": Joined(new)}]
    if not isinstance(old, Joined) or (key == "name" and old == new):
        return Joined(new)
    return Joined(old + new)


def _continued_by(items: list[Any], item: Any) -> int | None:
    if not isinstance(item, dict) or not isinstance(item.get("index"), int):
        return None
    for at in reversed(range(len(items))):
        if isinstance(items[at], dict) and items[at].get("index") == item["index"]:
            named = bool((item.get("function") or {}).get("name"))
            has = items[at].get("id")
            return None if named and item.get("id") and has and item["id"] != has else at
    return None


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    finished = dict(choice)
    message = finished.get("message")
    if message is None and "text" not in finished:
        message = {}
    if message is not None:
        message = dict(message)
        if isinstance(message.get("tool_calls"), list):
            calls = sorted(message["tool_calls"], key=lambda call: call.get("index", 0))
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
        role, content = message.pop("role", None), message.pop("content", None)
        finished["message"] = {"role": role or "assistant", "content": content, **message}
    finished["finish_reason"] = finished.pop("finish_reason", None)
    return finished
