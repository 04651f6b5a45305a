"""Splitting a body and joining it again gives the same body, whatever a client sent."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.bodies.shared_parts import join, references, split

IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 200
SYSTEM = "You answer for a shop. " * 80
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}] * 20
CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}]},
        {"role": "user", "content": "what is it?"},
    ],
    "tools": TOOLS,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x"}},
}
RESPONSES = {
    "instructions": SYSTEM,
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]},
    ],
    "tools": TOOLS,
}

# Bodies of every shape, in the vocabulary that splitting looks at, our own forms among it.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["system", "user", "data:x", "b1"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["messages", "input", "instructions", "tools", "functions", "content", "role", "image_url", "url",
             "x_tracetune", "blob", "literal", "response_format"]
        ),
        inner,
        max_size=3,
    ),
    max_leaves=25,
)  # fmt: skip
forged = st.sampled_from(
    [
        {"x_tracetune": {"blob": "b0"}},
        {"x_tracetune": {"literal": "a"}},
        {"x_tracetune": {"literal": {"x_tracetune": {"blob": "b0"}}}},
        {"x_tracetune": {"blob": 7}},
        {"x_tracetune": {}},
    ]
)


def taken(body: Any, wanted: Any = lambda *_: True) -> tuple[Any, dict[str, Any]]:
    blobs: dict[str, Any] = {}

    def take(kind: str, value: Any) -> str | None:
        if not wanted(kind, value):
            return None
        blob = f"b{len(blobs)}"
        blobs[blob] = value
        return blob

    return split(body, take), blobs


@given(
    body=values
    | st.builds(
        lambda a, b, c: {
            "messages": [{"role": "system", "content": a}, {"role": "user", "content": [{"image_url": b}]}],
            "tools": c,
        },
        values | forged,
        values | forged,
        values | forged,
    ),
    every=st.integers(1, 3),
)
def test_what_was_split_joins_to_the_same_body(body: Any, every: int) -> None:
    before = json.dumps(body)
    asked = iter(range(1000))
    parts, blobs = taken(body, lambda *_: next(asked) % every == 0)
    assert json.dumps(body) == before, "the body itself is not touched"
    assert join(parts, blobs.__getitem__) == body
    assert sorted(references(parts)) == sorted(blobs)


def test_system_prompts_tool_schemas_and_images_are_taken_of_chat_and_of_responses() -> None:
    for body, count in ((CHAT, 4), (RESPONSES, 4)):
        parts, blobs = taken(body)
        assert len(blobs) == count
        assert len(json.dumps(parts)) < 700
        assert join(parts, blobs.__getitem__) == body


def test_what_users_and_models_wrote_is_never_taken() -> None:
    body = {
        "messages": [
            {"role": "user", "content": SYSTEM},
            {"role": "assistant", "content": SYSTEM},
            {"role": "tool", "content": SYSTEM},
        ]
    }
    assert taken(body) == (body, {})


def test_a_client_cannot_name_the_part_of_another() -> None:
    for reference in (
        {"x_tracetune": {"blob": "b0"}},
        {"x_tracetune": {"literal": {"x_tracetune": {"blob": "b0"}}}},
    ):
        body = {"messages": [{"role": "system", "content": reference}], "tools": reference}
        parts, _ = taken(body, lambda *_: False)
        assert references(parts) == []
        assert join(parts, {}.__getitem__) == body
