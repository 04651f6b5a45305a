"""Judges tool calls: a tool that was offered, with arguments that are JSON and have what is required."""

import json

import judges


def arguments_of(call):
    try:
        found = json.loads(call["function"]["arguments"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return found if isinstance(found, dict) else None


def good(trace):
    tools = (trace.request or {}).get("tools") or []
    offered = {tool["function"]["name"]: tool["function"] for tool in tools if "function" in tool}
    if not offered:
        return judges.abstain("the request offered no tools")
    for call in trace.tool_calls:
        tool = offered.get(call.get("function", {}).get("name"))
        arguments = arguments_of(call)
        required = ((tool or {}).get("parameters") or {}).get("required", [])
        if tool is None or arguments is None or any(name not in arguments for name in required):
            return False
    if not trace.tool_calls and trace.answer.strip():
        return judges.abstain("answered in words; whether a tool was needed is not known")
    return bool(trace.tool_calls)
