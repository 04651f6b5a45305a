"""Chunks that are alike are read at a fraction of the cost, and come to what each by itself comes to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.traces.assembling.alike import Runs
from gateway.traces.assembling.assemble import assemble
from tests.support.plain_assembler import assemble_plainly

# Quotes, escapes, what ends an event, and what stands around fragments.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    [
        "",
        "a",
        '"',
        "\\",
        "\n\n",
        'data: {"',
        '"},"finish_reason":null}]}',
        '","p":"',
        "a fragment",
        "a padding",
    ]
)


def calls(text: str) -> st.SearchStrategy[Any]:
    function = st.fixed_dictionaries(
        {"arguments": st.just(text)}, optional={"name": st.sampled_from(["f", "g", ""])}
    )
    call = st.fixed_dictionaries(
        {"function": function},
        optional={
            "index": st.integers(0, 1),
            "id": st.sampled_from(["c1", "c2", ""]),
            "type": st.just("function"),
        },
    )
    return st.lists(call, max_size=2)


def deltas(text: str) -> st.SearchStrategy[dict[str, Any]]:
    part = st.fixed_dictionaries(
        {"type": st.just("text"), "text": st.just(text)}, optional={"index": st.just(0)}
    )
    return st.fixed_dictionaries(
        {},
        optional={
            "role": st.just("assistant"),
            "content": st.just(text) | st.none() | st.just("") | st.lists(part, max_size=2),
            "reasoning_content": st.sampled_from([text, "", None, "the same"]),
            "name": st.just("n"),
            "tool_calls": calls(text),
            "annotations": st.just([]) | st.just([{"url": "u"}]),
            "audio": st.fixed_dictionaries({"id": st.just("a1"), "data": st.just(text)}),
        },
    )


@st.composite
def chunks(draw: Any, text: str) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": draw(deltas(text))} if draw(st.integers(0, 4)) else {"text": text}
    choice = {
        "index": draw(st.integers(0, 1)),
        **said,
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "finish_reason": st.sampled_from([None, "stop"]),
                    "logprobs": st.none() | st.just({"content": [{"token": text}]}),
                    "filters": st.just({"hate": {"severity": "safe"}}) | st.just({"seen": [1]}),
                },
            )
        ),
    }
    top = {
        "id": "x",
        "created": draw(st.integers(0, 1)),
        "choices": [choice] * draw(st.sampled_from([1, 1, 1, 0, 2])),
    }
    padding = st.fixed_dictionaries({}, optional={"usage": st.none(), "p": TEXT, "content": TEXT})
    return {**top, **draw(padding)}


@st.composite
def streams(draw: Any) -> bytes:
    """Runs of chunks of the same shape with other texts in them, written in one of many ways."""
    written = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(chunks("\ue000"))
        tight, ascii_only = draw(st.booleans()), draw(st.booleans())
        pattern = json.dumps(shape, ensure_ascii=ascii_only, separators=(",", ":") if tight else None)
        slot = json.dumps("\ue000", ensure_ascii=ascii_only)[1:-1]
        before = draw(
            st.sampled_from(["data: ", "data:", ": hm\ndata: ", "event: message\ndata: ", "id: 1\ndata: "])
        )
        after = draw(st.sampled_from(["", "", "\nid: 2", "\n: x"]))
        for _ in range(draw(st.integers(1, 4))):
            text = json.dumps(draw(TEXT), ensure_ascii=draw(st.booleans()))[1:-1]
            broken = draw(st.sampled_from([*[text] * 12, "\\ud83d", "\\ude00", '"', "\\"]))
            written.append(before + pattern.replace(slot, broken) + after)
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return "".join(f"{event}\n\n" for event in written).replace("\n", newline).encode()


@given(streams())
@settings(max_examples=400, deadline=None)
def test_chunks_that_are_alike_come_to_what_each_by_itself_comes_to(body: bytes) -> None:
    assembled = assemble(body) or {}
    assembled.pop("x_tracetune", None)  # says what was no JSON, which the plain one leaves out

    assert assembled == assemble_plainly(body)


def said(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more}


def call(arguments: str, **more: Any) -> dict[str, Any]:
    return said({"tool_calls": [{**more, "function": {"arguments": arguments}}]})


def ended(content: str, reason: str | None) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}]}


def odd(content: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "text": {"as": "it is"}}
    return {"id": "x", "choices": [choice]}


# Each time three chunks that one might take for alike.
TEXTS = ("a", "b", "c")
CASES = {
    "plain": [said({"content": text}) for text in TEXTS],
    "a fragment that stays": [said({"content": text, "reasoning": "hm"}) for text in TEXTS],
    "the other one stays": [said({"reasoning": "hm", "content": text}) for text in TEXTS],
    "items without an index": [call(text) for text in TEXTS],
    "items with an index": [call(text, index=1) for text in TEXTS],
    "items with an index that is none": [call(text, index="1") for text in TEXTS],
    "an item that stays": [said({"content": text, "notes": [{"url": "u"}]}) for text in TEXTS],
    "padding": [said({"content": text}, p=text * 2) for text in TEXTS],
    "padding that ends": [
        said({"content": text}, p=p) for text, p in zip(TEXTS, ("x", "y", ""), strict=True)
    ],
    "padding that is no more": [
        said({"content": "a"}, p="x"),
        said({"content": "b"}),
        said({"content": "c"}),
    ],
    "the same name at the top": [{"content": "top", **said({"content": text})} for text in TEXTS],
    "a name at the top that changes": [{"content": text, **said({"content": "same"})} for text in TEXTS],
    "the same name behind": [said({"content": text}, content=text * 2) for text in TEXTS],
    "another end as long": [ended("a", None), ended("b", "ab"), ended("c", None)],
    "what replaces, as fragments": [odd(text) for text in TEXTS],
}


@pytest.mark.parametrize("chunks", CASES.values(), ids=CASES)
def test_what_looks_alike_is_not_taken_for_it(chunks: list[dict[str, Any]]) -> None:
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)

    assert assemble(body) == assemble_plainly(body)


@pytest.mark.parametrize("more", [{}, {"p": "xyz"}], ids=["bare", "padded"])
def test_of_chunks_that_are_alike_only_the_first_is_decoded(more: dict[str, Any]) -> None:
    events = [b"data: " + json.dumps(said({"content": text}, **more)).encode() for text in TEXTS]
    stream = b"".join(event + b"\n\n" for event in events)
    first, runs = said({"content": "a"}, **more), Runs()

    runs.begin(events[0], events[0].removeprefix(b"data: "), first)

    assert runs.taken(stream, len(events[0]) + 2) == len(stream)
    runs.finish()
    assert first["choices"][0]["delta"]["content"] == "abc"


def test_only_the_line_of_the_data_is_taken_for_it() -> None:
    chunks = [json.dumps(said({"content": text})) for text in TEXTS]
    body = "".join(f"data: {chunks[0]}\nid: {chunk}\n\n" for chunk in chunks).encode()

    assembled = assemble(body)

    assert assembled is not None
    assert assembled["choices"][0]["message"]["content"] == "aaa"


def test_an_event_of_another_api_is_never_taken_for_a_chunk() -> None:
    head = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "x"}
    body = b"".join(
        b"data: " + json.dumps({**head, **said({"content": text})}).encode() + b"\n\n" for text in TEXTS
    )

    assembled = assemble(body)

    assert assembled is not None
    assert assembled["output"][0]["content"][0]["text"] == "xxx"


def test_a_stream_whose_chunks_were_never_alike_is_whole_when_they_are() -> None:
    unlike = [said({"content": "a"}, **{f"k{number}": number}) for number in range(30)]
    alike = [said({"content": text}) for text in TEXTS]
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [*unlike, *alike])

    assert assemble(body) == assemble_plainly(body)
