"""A streamed response is stored as the response that it ends with, or as what of it had arrived."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.traces.assembling.assemble import assemble
from gateway.traces.assembling.usage import finish_reason, read_usage


def sse(events: list[dict[str, Any]]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


def test_a_responses_stream_is_its_final_response_or_what_had_arrived() -> None:
    final = {
        "object": "response",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
        "usage": {"input_tokens": 3, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
    }
    stream: list[dict[str, Any]] = [
        {
            "type": "response.created",
            "response": {"object": "response", "status": "in_progress", "output": []},
        },
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "hel"},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "lo"},
        {"type": "response.completed", "response": final},
    ]
    whole = assemble(sse(stream))
    assert whole == final
    assert finish_reason(whole) == "stop"
    usage = read_usage(whole)
    assert (usage.tokens_in, usage.tokens_cached, usage.tokens_out) == (3, 1, 2)
    partial = assemble(sse(stream[:3]))
    assert partial is not None
    assert partial["output"] == [{"type": "message", "content": [{"type": "output_text", "text": "hel"}]}]
    assert finish_reason(partial) is None


def item(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": {"type": kind, **fields}}


def fragments(kind: str, *pieces: str, **at: int) -> list[dict[str, Any]]:
    return [{"type": f"response.{kind}.delta", "output_index": 0, **at, "delta": piece} for piece in pieces]


@pytest.mark.parametrize(
    ("events", "output"),
    [
        (
            [
                item("function_call", name="f", arguments=""),
                *fragments("function_call_arguments", '{"a', '":1'),
            ],
            {"type": "function_call", "name": "f", "arguments": '{"a":1'},
        ),
        (
            [item("reasoning", summary=[]), *fragments("reasoning_summary_text", "h", "m", summary_index=0)],
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        ),
        (
            fragments("reasoning_text", "h", "m", content_index=0),
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        ),
        (
            fragments("refusal", "n", "o", content_index=0),
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ),
        (
            [
                item("message", content=[]),
                {
                    "type": "response.content_part.added",
                    "output_index": 0,
                    "content_index": 0,
                    "part": {"type": "output_text", "text": "", "annotations": []},
                },
                *fragments("output_text", "a", "b", content_index=0),
                *fragments("output_text", "c", content_index=1),
                *fragments("output_text", "lost", content_index=9),
            ],
            {
                "type": "message",
                "content": [
                    {"type": "output_text", "text": "ab", "annotations": []},
                    {"type": "output_text", "text": "c"},
                ],
            },
        ),
        (fragments("custom_tool_call_input", "l", "s"), {"type": "custom_tool_call", "input": "ls"}),
        (fragments("mcp_call_arguments", "{", "}"), {"type": "mcp_call", "arguments": "{}"}),
        (fragments("code_interpreter_call_code", "1", "+"), {"type": "code_interpreter_call", "code": "1+"}),
        (
            [
                *fragments("output_text", "a", content_index=0),
                {
                    "type": "response.output_item.done",
                    "output_index": 0,
                    "item": {"type": "message", "content": [{"type": "output_text", "text": "whole"}]},
                },
            ],
            {"type": "message", "content": [{"type": "output_text", "text": "whole"}]},
        ),
    ],
)
def test_a_responses_stream_that_broke_off_holds_every_kind_of_piece(
    events: list[dict[str, Any]], output: dict[str, Any]
) -> None:
    assembled = assemble(sse(events))

    assert assembled is not None
    assert assembled["output"] == [output]


def test_an_error_in_a_responses_stream_is_kept_beside_what_had_arrived() -> None:
    error = {"type": "error", "code": "server_error", "message": "x", "param": None, "sequence_number": 2}
    partial = assemble(sse([*fragments("output_text", "a", content_index=0), error]))

    assert partial is not None
    assert partial["error"] == error
    assert partial["output"][0]["content"][0]["text"] == "a"
    assert assemble(sse([error])) == {"object": "response", "error": error}
