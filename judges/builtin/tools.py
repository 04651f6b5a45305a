"""Whether the answer's tool calls are such as the request allows."""

from __future__ import annotations

from typing import Any

import msgspec

from judges.builtin.shown import decoded
from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

MAX_CALLS = 128  # what the API takes of tools; an answer with more calls is not judged


def tool_calls(trace: JudgedTrace, *, required: bool = False) -> bool | Abstain:
    """True where each call names a tool of the request and its arguments are JSON that its schema takes.

    *required*: an answer without a call is False; otherwise it is an abstention.
    """
    calls = trace.tool_calls
    tools = _tools(trace.request)
    if not tools:
        return abstain("the request has no tools")
    if not calls:
        return False if required else abstain("the answer calls no tool")
    if len(calls) > MAX_CALLS:
        return abstain(f"the answer has more than {MAX_CALLS} tool calls")
    unclear: Abstain | None = None
    for call in calls:
        verdict = _is_valid(call, tools)
        if verdict is False:
            return False
        if isinstance(verdict, Abstain):
            unclear = verdict
    return True if unclear is None else unclear


def _tools(request: Any) -> dict[str, Any]:
    """Name -> schema of its arguments (None: it says nothing of them), for each tool of *request*."""
    listed = request.get("tools") if isinstance(request, dict) else None
    found: dict[str, Any] = {}
    for tool in listed if isinstance(listed, list) else []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            found[function["name"]] = function.get("parameters")
    return found


def _is_valid(call: dict[str, Any], tools: dict[str, Any]) -> bool | Abstain:
    from judges.builtin.schema_rules import satisfies

    function = call.get("function")
    if not isinstance(function, dict):
        return False
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or name not in tools or not isinstance(arguments, str):
        return False
    try:
        value = decoded(arguments)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False
    schema = tools[name]
    return True if schema is None else satisfies(value, len(arguments), msgspec.json.encode(schema))
