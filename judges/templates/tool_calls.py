"""Judges tool calls: a tool that was offered, with arguments that are JSON and have what is required."""

import json

import judges


def good(trace):
    offered = {tool["function"]["name"]: tool["function"] for tool in trace.request.get("tools", [])}
    if not offered:
        return judges.abstain("the request offered no tools")
    calls = trace.response["choices"][0]["message"].get("tool_calls") or []
    for call in calls:
        tool = offered.get(call["function"]["name"])
        try:
            arguments = json.loads(call["function"]["arguments"])
        except ValueError:
            return False
        required = (tool or {}).get("parameters", {}).get("required", [])
        if tool is None or any(argument not in arguments for argument in required):
            return False
    return bool(calls) or bool(trace.answer.strip())
