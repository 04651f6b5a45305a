"""What of a trace a model is shown, as plain data: roles, texts and tool calls, and nothing that we added."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.traces.markers import is_readable
from judges.trace import JudgedTrace, judged_trace
from judges.wire import Task

_NOT_TEXT = "(not text, not shown)"


def answer_material(trace: JudgedTrace) -> dict[str, Any]:
    """The conversation and the answer to it."""
    return {"conversation": conversation(trace), "answer": answer_text(trace)}


def session_material(task: Task, trace: JudgedTrace) -> dict[str, Any]:
    """The turns of a session, oldest first, up to *trace*, the last one; erased ones are left out."""
    earlier = [
        judged_trace(row) for row in task.session if row.trace_id != trace.trace_id and is_readable(row)
    ]
    turns = [{"prompt": turn.prompt, "answer": answer_text(turn)} for turn in (*earlier, trace)]
    return {"session": turns}


def pair_material(trace: JudgedTrace, first: str, second: str) -> dict[str, Any]:
    """The conversation with two answers to it."""
    return {"conversation": conversation(trace), "first": first, "second": second}


def conversation(trace: JudgedTrace) -> list[dict[str, Any]]:
    """The messages of the request: role, text, tool calls."""
    messages = trace.request.get("messages") if isinstance(trace.request, dict) else None
    shown = []
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            said: dict[str, Any] = {"role": message.get("role"), "content": _content(message.get("content"))}
            if message.get("tool_calls"):
                said["tool_calls"] = message["tool_calls"]
            shown.append(said)
    return shown


def answer_text(trace: JudgedTrace) -> str:
    """The answer as text; where it called tools, with the calls as JSON."""
    if not trace.tool_calls:
        return trace.answer
    calls = [call.get("function", call) for call in trace.tool_calls]
    return f"{trace.answer}\n{msgspec.json.encode({'tool_calls': calls}).decode()}".strip()


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict)]
    return "".join(str(part["text"]) if "text" in part else _NOT_TEXT for part in parts)
