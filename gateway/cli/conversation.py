"""A trace's bodies as a conversation that a person can read.

Lenient: bodies are whatever apps and upstreams send.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """Something said: by whom, and what."""

    role: str
    text: str


def conversation(request: str | None, response: str | None) -> list[Turn]:
    """What was asked and answered. A body that is no conversation is one turn with its JSON, indented."""
    asked, answered = _decoded(request), _decoded(response)
    turns = _asked(asked) if isinstance(asked, dict) else []
    turns = turns or ([Turn("request", _indented(asked))] if request is not None else [])
    answers = _answered(answered) if isinstance(answered, dict) else []
    return turns + (answers or ([Turn("response", _indented(answered))] if response is not None else []))


def _asked(body: dict[str, Any]) -> list[Turn]:
    instructions = body.get("instructions")
    first = [Turn("system", instructions)] if isinstance(instructions, str) else []
    for name in ("messages", "input", "prompt"):  # chat completions, responses and embeddings, completions
        said = body.get(name)
        if isinstance(said, str):
            return [*first, Turn("user", said)]
        if isinstance(said, list) and all(isinstance(item, dict) for item in said):
            return first + [_turn(item) for item in said]
    return first


def _answered(body: dict[str, Any]) -> list[Turn]:
    if isinstance(body.get("choices"), list):
        choices = [choice for choice in body["choices"] if isinstance(choice, dict)]
        return [
            _turn(choice["message"])
            if isinstance(choice.get("message"), dict)
            else Turn("assistant", _text(choice.get("text")))
            for choice in choices
        ]
    if isinstance(body.get("output"), list):
        return [_turn({"role": "assistant", **item}) for item in body["output"] if isinstance(item, dict)]
    if isinstance(body.get("error"), dict):
        return [Turn("error", _text(body["error"].get("message")))]
    return []


def _turn(message: dict[str, Any]) -> Turn:
    parts = [_text(message.get("content")), _text(message.get("refusal"))]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts.append(f"{_text(function.get('name'))}({_text(function.get('arguments'))})")
    return Turn(_text(message.get("role")) or "?", "\n".join(part for part in parts if part))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return "\n".join(
            item["text"] if isinstance(item.get("text"), str) else f"[{item.get('type', '?')}]"
            for item in value
        )
    return json.dumps(value, ensure_ascii=False)


def _decoded(body: str | None) -> Any:
    try:
        return json.loads(body) if body is not None else None
    except (ValueError, RecursionError):
        return body


def _indented(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
