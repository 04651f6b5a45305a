from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import judges
from gateway.traces.types import Feedback, Trace
from judges.trace import stored_row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def said(kind: str, text: str | None, minutes: int) -> Feedback:
    return Feedback(
        feedback_id=f"{kind}-{minutes}",
        trace_id="t",
        session=None,
        client="",
        kind=kind,
        value=None,
        text=text,
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes),
    )


@given(request=JSON, response=JSON)
def test_a_trace_to_its_row_and_back_is_the_same(request: Any, response: Any):
    trace = judges.trace_from(request=request or {}, response=response or {}, kept="x")
    assert judges.judged_trace(stored_row(trace), trace.feedback) == trace


def test_every_column_of_a_trace_is_an_attribute():
    trace = judges.trace_from(answer="yes", route="support", tags={"plan": "pro"}, cost_usd=0.25)
    for column in Trace.__struct_fields__:
        getattr(trace, column)
    assert (trace.route, trace.tags, trace.cost_usd) == ("support", {"plan": "pro"}, 0.25)


def test_the_last_report_of_what_was_kept_wins_and_other_feedback_does_not_count():
    row = stored_row(judges.trace_from(answer="a"))
    trace = judges.judged_trace(
        row, [said("kept", "second", 2), said("comment", "nice", 3), said("kept", "first", 1)]
    )
    assert trace.kept == "second"
    assert judges.judged_trace(row).kept is None


def test_json_that_was_kept_is_text_as_given():
    assert judges.trace_from(answer="a", kept={"a": [1]}).kept == '{"a":[1]}'


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ({"choices": [{"message": {"content": "hello"}}]}, "hello"),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}, "ab"),
        ({"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}}]}, ""),
        ({"choices": [{"text": "once"}]}, "once"),
        ({"choices": []}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_answer_is_the_text_of_the_first_choice(response: Any, answer: str):
    row = msgspec.structs.replace(
        stored_row(judges.trace_from()),
        response=None if response is None else msgspec.json.encode(response).decode(),
    )
    assert judges.judged_trace(row).answer == answer


def test_the_prompt_is_the_last_user_message():
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "last"}]},
        {"role": "assistant", "content": "no"},
    ]
    assert judges.trace_from(request={"messages": messages}).prompt == "last"
    assert judges.trace_from(request={"messages": []}).prompt == ""


def test_tool_calls_are_there_as_the_api_has_them():
    calls = [{"id": "1", "type": "function", "function": {"name": "track", "arguments": "{}"}}]
    assert judges.trace_from(tool_calls=calls).tool_calls == calls
    assert judges.trace_from(answer="no").tool_calls == []


def test_another_answer_to_the_same_trace_keeps_everything_else():
    trace = judges.trace_from(answer="theirs", kept="ours", session="s")
    other = trace.with_answer("ours")
    assert (other.answer, other.kept, other.session) == ("ours", "ours", "s")
    assert trace.answer == "theirs"
