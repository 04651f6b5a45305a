"""A trace as the conversation it was: what was asked, what was answered, which tools there were. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.traces.assembling.jsontext import MARKER, parse_json_or_none
from gateway.traces.markers import ERASED_REASON, why_unreadable
from gateway.traces.types import Trace

CHAT = "/v1/chat/completions"

# Reasons, as they are counted and told.
OTHER_ENDPOINT = "no chat completion"
NO_BODIES = "no bodies were captured"
SHORTENED = "a body was too long and was cut when it was stored"
DAMAGED = "a body is damaged"
UNREADABLE = "no messages or no answer"

# What the API knows of a message; what a client or an upstream adds, a training API may refuse.
_FIELDS = ("role", "name", "content", "refusal", "tool_calls", "tool_call_id", "function_call")
_ANSWERS = ("content", "tool_calls", "function_call", "refusal")


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation in the words of OpenAI's API."""

    messages: list[dict[str, Any]]
    answer: dict[str, Any]
    tools: list[dict[str, Any]]
    parallel_tool_calls: bool | None


def chat_of(trace: Trace) -> Chat | str:
    """*trace* as a conversation; the reason where it is none, or not whole."""
    if trace.endpoint != CHAT:
        return OTHER_ENDPOINT
    if trace.request is None or trace.response is None:
        return NO_BODIES
    request, response = _object(trace.request), _object(trace.response)
    if request is None or response is None:
        return UNREADABLE
    if (why := why_unreadable(request) or why_unreadable(response)) is not None:
        return why if why == ERASED_REASON else DAMAGED
    if MARKER in request or MARKER in response:
        return SHORTENED
    return _chat(request, response)


def _chat(request: dict[str, Any], response: dict[str, Any]) -> Chat | str:
    messages, answer = _messages(request), _answer(response)
    if not messages or answer is None:
        return UNREADABLE
    parallel = request.get("parallel_tool_calls")
    return Chat(
        messages=messages,
        answer=answer,
        tools=_tools(request),
        parallel_tool_calls=parallel if isinstance(parallel, bool) else None,
    )


def _object(body: str) -> dict[str, Any] | None:
    value = parse_json_or_none(body.encode())
    return value if isinstance(value, dict) else None


def _messages(request: dict[str, Any]) -> list[dict[str, Any]]:
    messages = request.get("messages")
    if not isinstance(messages, list):
        return []
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        return []
    return [_message(message) for message in messages]


def _answer(response: dict[str, Any]) -> dict[str, Any] | None:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        return None
    answer = _message({"role": "assistant", **message})
    return answer if any(answer.get(name) for name in _ANSWERS) else None


def _message(message: dict[str, Any]) -> dict[str, Any]:
    kept = {name: message[name] for name in _FIELDS if message.get(name) is not None}
    if message.get("role") == "assistant" and not kept.get("tool_calls"):
        kept.pop("tool_calls", None)  # an empty list, as some upstreams write
    return kept


def _tools(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools of a request, the older `functions` as what they became."""
    tools = request.get("tools")
    if isinstance(tools, list) and tools:
        return tools
    functions = request.get("functions")
    if not isinstance(functions, list):
        return []
    return [{"type": "function", "function": function} for function in functions]
