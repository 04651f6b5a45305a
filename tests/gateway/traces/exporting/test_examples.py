"""What becomes of a trace in each training format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.assembling.jsontext import MARKER, MAX_BODY_BYTES, json_text
from gateway.traces.exporting.chat import (
    DAMAGED,
    NO_BODIES,
    OTHER_ENDPOINT,
    SHORTENED,
    UNREADABLE,
    Chat,
    chat_of,
)
from gateway.traces.exporting.examples import (
    BAD_ARGUMENTS,
    NOT_TEXT,
    labelled_by,
    openai_example,
    trl_example,
)
from gateway.traces.markers import ERASED, ERASED_REASON, unreadable
from tests.support.store import a_trace

CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 7}'}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
ASKED: list[dict[str, Any]] = [
    {"role": "developer", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "where "}, {"type": "text", "text": "is it?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "on its way"},
]


def chat(asked: Any = None, message: Any = None, **changes: Any) -> Chat | str:
    asked = asked or {"messages": ASKED, "tools": TOOLS, "parallel_tool_calls": False}
    message = {"role": "assistant", "content": "On its way."} if message is None else message
    bodies = {
        "request": json.dumps(asked),
        "response": json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}),
    }
    return chat_of(a_trace(**{**bodies, **changes}))


def whole(found: Chat | str) -> Chat:
    assert isinstance(found, Chat), found
    return found


def test_an_openai_example_has_the_conversation_the_answer_and_the_tools() -> None:
    example = openai_example(whole(chat()), None)

    assert example == {
        "messages": [
            *ASKED[:2],
            {"role": "assistant", "tool_calls": [CALL], "weight": 0},
            ASKED[3],
            {"role": "assistant", "content": "On its way."},
        ],
        "tools": TOOLS,
        "parallel_tool_calls": False,
    }


def test_only_the_last_answer_of_an_openai_example_is_trained_on() -> None:
    example = openai_example(whole(chat()), None)
    weights = [message.get("weight", 1) for message in example["messages"] if message["role"] == "assistant"]

    assert weights == [0, 1]


def test_an_answer_that_calls_a_tool_is_an_example() -> None:
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL], "audio": None, "annotations": []}

    assert whole(chat(message=answer)).answer == {"role": "assistant", "tool_calls": [CALL]}
    assert openai_example(whole(chat(message=answer)), None)["messages"][-1]["tool_calls"] == [CALL]


def test_a_trl_example_is_text_with_decoded_arguments() -> None:
    assert trl_example(whole(chat()), None) == {
        "prompt": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "where is it?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{**CALL, "function": {"name": "look_up", "arguments": {"order": 7}}}],
            },
            ASKED[3],
        ],
        "completion": [{"role": "assistant", "content": "On its way."}],
        "tools": TOOLS,
    }


@pytest.mark.parametrize(("score", "label"), [(0.5, True), (1.0, True), (0.49, False), (0.0, False)])
def test_the_label_of_an_unpaired_example_is_the_verdict_of_the_judge(score: float, label: bool) -> None:
    example = labelled_by(0.5)(whole(chat()), score)

    assert isinstance(example, dict)
    assert (example["label"], set(example)) == (label, {"prompt", "completion", "tools", "label"})


def test_functions_become_the_tools_that_they_were_later_called() -> None:
    request = {"messages": ASKED[1:2], "functions": [{"name": "look_up"}]}

    assert whole(chat(request)).tools == [{"type": "function", "function": {"name": "look_up"}}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"endpoint": "/v1/embeddings"}, OTHER_ENDPOINT),
        ({"request": None}, NO_BODIES),
        ({"response": None}, NO_BODIES),
        ({"response": '"a page of a proxy"'}, UNREADABLE),
        ({"request": "{}"}, UNREADABLE),
        ({"request": '{"messages": [{"content": "who says it?"}]}'}, UNREADABLE),
        ({"response": '{"choices": [{"message": {"content": ""}}]}'}, UNREADABLE),
        ({"response": '{"error": {"message": "no"}}'}, UNREADABLE),
        ({"response": json.dumps({MARKER: {"left_out": True}})}, SHORTENED),
        ({"request": ERASED}, ERASED_REASON),
        ({"response": unreadable("traces.response of t1 is damaged")}, DAMAGED),
    ],
)
def test_what_is_no_whole_conversation_is_no_example_and_says_why(
    changes: dict[str, Any], reason: str
) -> None:
    assert chat(**changes) == reason


def test_a_body_that_was_cut_when_it_was_stored_is_no_example() -> None:
    long = json_text({"messages": [{"role": "user", "content": "x" * (MAX_BODY_BYTES + 1)}]})

    assert chat(response=long) == SHORTENED
    assert chat_of(a_trace(request=long)) == SHORTENED


def test_what_no_template_of_text_can_say_is_no_trl_example() -> None:
    picture = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    }
    broken = {**CALL, "function": {"name": "look_up", "arguments": '{"order": 7'}}

    assert trl_example(whole(chat(picture)), None) == NOT_TEXT
    assert trl_example(whole(chat(message={"content": None, "tool_calls": [broken]})), None) == BAD_ARGUMENTS
    assert isinstance(openai_example(whole(chat(picture)), None), dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["messages", "choices", "message", "content", "role", "type", "text", "tool_calls", "function",
                         "arguments", "tools"]),
        inner,
        max_size=4,
    ),
    max_leaves=16,
)  # fmt: skip


@given(json_values, json_values)
def test_no_body_breaks_an_export(request: object, response: object) -> None:
    found = chat_of(a_trace(request=json.dumps(request), response=json.dumps(response)))

    if isinstance(found, Chat):
        for build in (openai_example, trl_example, labelled_by(0.5)):
            assert build(found, 1.0)
