"""A streamed answer is stored in the shape of a buffered one, whatever the upstream's habits."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.traces.assembling.assemble import assemble
from gateway.traces.assembling.usage import finish_reason

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def sse(chunks: list[Any], newline: str = "\n", *, done: bool = True, comments: bool = False) -> bytes:
    lines = []
    for chunk in chunks:
        if comments:
            lines.append(": keep-alive" + newline + newline + "event: message" + newline)
        lines.append(f"data: {json.dumps(chunk)}{newline}{newline}")
    if done:
        lines.append(f"data: [DONE]{newline}{newline}")
    return "".join(lines).encode()


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return {**base, "choices": choices, **more}


@st.composite
def answers(draw: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A buffered answer and the chunks that some upstream would stream it in."""
    choices, chunks = [], []
    for index in range(draw(st.integers(1, 3))):
        chunks.append(chunk([{"index": index, "delta": {"role": "assistant", "content": None}}]))
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for field in ("content", "refusal", "reasoning_content", "some_future_field"):
            pieces = draw(st.lists(TEXT, max_size=3))
            if pieces:
                message[field] = "".join(pieces)
                chunks += [chunk([{"index": index, "delta": {field: piece}}]) for piece in pieces]
        calls = []
        for number in range(draw(st.integers(0, 2))):
            arguments = draw(st.lists(TEXT, max_size=3))
            head = {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": ""}}
            calls.append({**head, "function": {"name": "f", "arguments": "".join(arguments)}})
            fragments = [head, *({"function": {"arguments": piece}} for piece in arguments)]
            chunks += [
                chunk([{"index": index, "delta": {"tool_calls": [{"index": number, **fragment}]}}])
                for fragment in fragments
            ]
        if calls:
            message["tool_calls"] = calls
        reason = "tool_calls" if calls else "stop"
        chunks.append(chunk([{"index": index, "delta": {}, "finish_reason": reason}]))
        choices.append({"index": index, "message": message, "finish_reason": reason})
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    chunks.append(chunk([], usage=usage))
    top = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m"}
    return {**top, "choices": choices, "usage": usage}, chunks


@given(answers(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_stream_assembles_to_the_buffered_answer(
    answer: tuple[dict[str, Any], list[dict[str, Any]]], newline: str, done: bool, comments: bool
) -> None:
    expected, chunks = answer
    assert assemble(sse(chunks, newline, done=done, comments=comments)) == expected


@given(answers(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_cut_at_any_byte_assembles_to_what_had_arrived(
    answer: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    expected, chunks = answer
    body = sse(chunks, "\r\n")
    cut = body[: data.draw(st.integers(0, len(body)))]
    assembled = assemble(cut)
    if assembled is None:
        assert cut.count(b"\r\n\r\n") == 0
        return
    assert "x_tracetune" not in assembled  # half a chunk is no chunk, and not an invalid one
    for part in assembled["choices"]:
        whole = expected["choices"][part["index"]]["message"]
        for field in ("content", "refusal", "reasoning_content", "some_future_field"):
            assert (whole.get(field) or "").startswith(part["message"].get(field) or "")
        for had, call in zip(
            part["message"].get("tool_calls", []), whole.get("tool_calls", []), strict=False
        ):
            assert call["function"]["arguments"].startswith(had["function"]["arguments"])


@given(st.lists(st.sampled_from([b"data:", b"data: ", b"\n", b"\r", b"{", b"}", b'"a":1', b"[DONE]", b":x"])))
def test_no_bytes_make_it_raise(parts: list[bytes]) -> None:
    assembled = assemble(b"".join(parts))
    if assembled is not None:
        msgspec.json.encode(assembled)


def test_chunks_that_are_no_json_are_flagged_and_the_rest_is_kept() -> None:
    body = b"data: oops\n\n" + sse([chunk([{"index": 0, "delta": {"content": "hi"}}])]) + b"data: 17\n\n"
    assembled = assemble(body)
    assert assembled is not None
    assert assembled["choices"][0]["message"]["content"] == "hi"
    assert assembled["x_tracetune"] == {"invalid_chunks": 2, "samples": ["oops", "17"]}


def test_an_error_in_band_is_kept_beside_the_partial_answer() -> None:
    error = {"message": "overloaded", "type": "server_error"}
    assembled = assemble(sse([chunk([{"index": 0, "delta": {"content": "he"}}]), {"error": error}]))
    assert assembled is not None
    assert (assembled["error"], assembled["choices"][0]["message"]["content"]) == (error, "he")
    assert finish_reason(assembled) is None


def test_several_data_lines_without_a_blank_line_are_several_chunks() -> None:
    chunks = [chunk([{"index": 0, "delta": {"content": piece}}]) for piece in ("a", "b")]
    body = b"".join(b"data: " + json.dumps(one).encode() + b"\n" for one in chunks)
    assembled = assemble(body)
    assert assembled is not None
    assert assembled["choices"][0]["message"]["content"] == "ab"


def test_names_repeated_with_every_fragment_are_not_joined() -> None:
    fragments = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": a}} for a in "{}"
    ]
    assembled = assemble(sse([chunk([{"index": 0, "delta": {"tool_calls": [f]}}]) for f in fragments]))
    assert assembled is not None
    assert assembled["choices"][0]["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_parallel_calls_under_one_index_stay_apart() -> None:
    calls = [{"index": 0, "id": f"c{n}", "function": {"name": "f", "arguments": "{}"}} for n in range(2)]
    assembled = assemble(sse([chunk([{"index": 0, "delta": {"tool_calls": [call]}}]) for call in calls]))
    assert assembled is not None
    assert [call["id"] for call in assembled["choices"][0]["message"]["tool_calls"]] == ["c0", "c1"]


def test_what_hangs_on_a_choice_is_replaced_and_lists_are_extended() -> None:
    def piece(token: str) -> dict[str, Any]:
        filters = {"hate": {"severity": "safe", "filtered": False}}
        logprobs = {"content": [{"token": token, "logprob": -0.5, "bytes": [1]}], "refusal": None}
        return {
            "index": 0,
            "delta": {"content": token},
            "logprobs": logprobs,
            "content_filter_results": filters,
        }

    assembled = assemble(sse([chunk([piece("a")]), chunk([piece("b")])]))
    assert assembled is not None
    choice = assembled["choices"][0]
    assert choice["content_filter_results"] == {"hate": {"severity": "safe", "filtered": False}}
    assert [item["token"] for item in choice["logprobs"]["content"]] == ["a", "b"]


def test_content_in_parts_and_in_strings_is_one_list_of_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    deltas = [{"content": ""}, {"content": [thinking]}, {"content": "he"}, {"content": "llo"}]
    assembled = assemble(sse([chunk([{"index": 0, "delta": delta}]) for delta in deltas]))
    assert assembled is not None
    assert assembled["choices"][0]["message"]["content"] == [thinking, {"type": "text", "text": "hello"}]


def test_legacy_completions_join_their_text() -> None:
    pieces = [
        {
            "id": "c",
            "object": "text_completion",
            "choices": [{"index": 0, "text": text, "finish_reason": reason}],
        }
        for text, reason in (("a", None), ("b", None), ("", "length"))
    ]
    assembled = assemble(sse(pieces))
    assert assembled == {
        "id": "c",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "ab", "finish_reason": "length"}],
    }


def test_a_typed_error_in_a_chat_stream_leaves_it_a_chat() -> None:
    chunks = [chunk([{"index": 0, "delta": {"content": "a"}}]), {"type": "error", "error": {"message": "x"}}]
    assembled = assemble(sse(chunks))

    assert assembled is not None
    assert assembled["choices"][0]["message"]["content"] == "a"
