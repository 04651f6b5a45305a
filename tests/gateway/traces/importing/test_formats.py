"""What becomes of a line of each tool's log. The lines have the fields that the tools document."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.importing.call import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    ImportedCall,
    OtherLineError,
    UnreadableLineError,
)
from gateway.traces.importing.recognise import SOURCES, call_of

ASKED = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "where is it?"}]
ANSWER = {"role": "assistant", "content": "on its way"}
CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1764000000,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": ANSWER, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}
AT = datetime(2025, 11, 24, 16, 0, tzinfo=UTC)  # 1764000000

LITELLM = {
    "id": "chatcmpl-1",
    "trace_id": "conversation-7",
    "call_type": "acompletion",
    "stream": True,
    "response_cost": 0.0012,
    "status": "success",
    "custom_llm_provider": "azure",
    "startTime": 1764000000.0,
    "endTime": 1764000002.5,
    "completionStartTime": 1764000000.5,
    "model": "gpt-4o-mini",
    "model_group": "support",
    "metadata": {"user_api_key_hash": "h"},
    "request_tags": ["team:billing", "beta"],
    "end_user": "u1",
    "messages": ASKED,
    "response": COMPLETION,
    "error_str": None,
    "model_parameters": {"temperature": 0.2, "tools": TOOLS},
}
LANGFUSE = {
    "id": "o1",
    "trace_id": "t1",
    "type": "GENERATION",
    "environment": "production",
    "start_time": "2025-11-24 16:00:00.000000",
    "end_time": "2025-11-24 16:00:02.500000",
    "completion_start_time": None,
    "level": "DEFAULT",
    "status_message": "",
    "input": json.dumps({"messages": ASKED, "tools": TOOLS}),
    "output": json.dumps(ANSWER),
    "provided_model_name": "gpt-4o-mini",
    "model_parameters": '{"temperature":0.2}',
    "usage_details": {"input": 9, "output": 4, "total": 13},
    "total_cost": 0.0012,
    "user_id": "u1",
    "session_id": "s1",
}
HELICONE = {
    "request_id": "r1",
    "request_created_at": "2025-11-24T16:00:00.000Z",
    "request_path": "https://api.openai.com/v1/chat/completions",
    "request_body": {"model": "gpt-4o-mini", "messages": ASKED, "stream": True},
    "request_user_id": "u1",
    "request_properties": {"Helicone-Session-Id": "s1", "team": "billing"},
    "request_model": "gpt-4o-mini",
    "response_id": "a1",
    "response_created_at": "2025-11-24T16:00:02.600Z",
    "response_body": COMPLETION,
    "response_status": 200,
    "model": "gpt-4o-mini",
    "provider": "OPENAI",
    "delay_ms": 2500,
    "time_to_first_token": 400,
    "cost": 0.0012,
}


def test_a_line_of_a_fine_tuning_file_is_a_call_whose_answer_is_whole() -> None:
    line = {
        "messages": [*ASKED, {**ANSWER, "weight": 1}],
        "tools": TOOLS,
        "split": "TEST",
        "metadata": {"team": "a"},
    }
    call = call_of(line)

    assert call.request == {"messages": ASKED, "tools": TOOLS}
    assert call.response is not None
    assert call.response["choices"] == [{"index": 0, "message": ANSWER, "finish_reason": "stop"}]
    assert (call.tags, call.started_at, call.endpoint) == ({"split": "TEST", "team": "a"}, None, CHAT)


def test_a_tool_call_at_the_end_of_a_fine_tuning_line_ended_as_one() -> None:
    call = call_of({"messages": [*ASKED, {"role": "assistant", "tool_calls": [CALL]}]})

    assert call.response is not None
    assert call.response["choices"][0]["finish_reason"] == "tool_calls"


def test_a_stored_completion_with_its_messages_is_a_call() -> None:
    stored = {
        **COMPLETION,
        "messages": ASKED,
        "metadata": {"session_id": "s1", "team": "a"},
        "temperature": 0.2,
    }
    call = call_of({**stored, "tools": TOOLS, "tool_choice": None, "request_id": "req_1"})

    assert call.request == {
        "messages": ASKED,
        "model": COMPLETION["model"],
        "tools": TOOLS,
        "temperature": 0.2,
        "metadata": {"session_id": "s1", "team": "a"},
    }
    assert call.response == COMPLETION
    assert (call.started_at, call.session, call.tags) == (AT, "s1", {"team": "a"})


def test_a_log_of_request_and_response_is_a_call() -> None:
    line = {
        "request": {
            "model": "gpt-4o-mini",
            "messages": ASKED,
            "user": "u1",
            "metadata": {"session_id": "s1"},
        },
        "response": json.dumps(COMPLETION),
        "created_at": "2025-11-24T17:00:00+01:00",
        "latency_ms": 2500,
        "status": 200,
        "tags": {"team": "billing"},
        "cost_usd": 0.0012,
    }
    call = call_of(line)

    assert (call.request, call.response) == (line["request"], COMPLETION)
    assert (call.session, call.subject, call.tags) == ("s1", "u1", {"team": "billing"})
    assert (call.started_at, call.latency_ms, call.cost_usd, call.status) == (AT, 2500, 0.0012, 200)


def test_a_report_to_openpipe_is_a_call() -> None:
    line = {
        "requestedAt": 1764000000000,
        "receivedAt": 1764000002500,
        "reqPayload": {"model": "gpt-4o-mini", "messages": ASKED},
        "respPayload": COMPLETION,
        "statusCode": 200,
        "tags": {"prompt_id": "p1"},
    }
    call = call_of(line)

    assert (call.request, call.response) == (line["reqPayload"], COMPLETION)
    assert (call.started_at, call.latency_ms, call.tags) == (AT, 2500, {"prompt_id": "p1"})


def test_a_payload_of_litellm_is_a_call() -> None:
    call = call_of(LITELLM)

    assert call.request == {"model": "support", "messages": ASKED, "temperature": 0.2, "tools": TOOLS}
    assert call.response == COMPLETION
    assert (call.model, call.upstream, call.session, call.subject) == (
        "gpt-4o-mini",
        "azure",
        "conversation-7",
        "u1",
    )
    assert (call.started_at, call.latency_ms, call.ttft_ms, call.stream) == (AT, 2500, 500, True)
    assert (call.tags, call.cost_usd) == ({"team": "billing", "beta": "true"}, 0.0012)


def test_a_generation_of_langfuse_is_a_call_from_either_export() -> None:
    call = call_of(LANGFUSE)
    from_api = call_of(
        {
            "id": "o1",
            "traceId": "t1",
            "type": "GENERATION",
            "environment": "production",
            "startTime": "2025-11-24T16:00:00.000Z",
            "endTime": "2025-11-24T16:00:02.500Z",
            "level": "DEFAULT",
            "input": {"messages": ASKED, "tools": TOOLS},
            "output": ANSWER,
            "model": "gpt-4o-mini",
            "modelParameters": {"temperature": 0.2},
            "usageDetails": {"input": 9, "output": 4, "total": 13},
            "costDetails": {"total": 0.0012},
            "userId": "u1",
            "sessionId": "s1",
        }
    )

    assert call == from_api
    assert call.request == {"model": "gpt-4o-mini", "temperature": 0.2, "messages": ASKED, "tools": TOOLS}
    assert call.response is not None
    assert call.response["choices"] == [{"index": 0, "message": ANSWER, "finish_reason": None}]
    assert call.response["usage"] == COMPLETION["usage"]
    assert (call.started_at, call.latency_ms, call.cost_usd) == (AT, 2500, 0.0012)
    assert (call.session, call.subject, call.tags) == ("s1", "u1", {"environment": "production"})


def test_tokens_that_overlap_in_an_unknown_way_are_unknown() -> None:
    details = {"input": 9, "input_cached_tokens": 5, "output": 4, "total": 18}
    call = call_of({**LANGFUSE, "usage_details": details})

    assert call.response is not None
    assert "usage" not in call.response


def test_a_request_of_helicone_is_a_call() -> None:
    call = call_of(HELICONE)

    assert (call.request, call.response) == (HELICONE["request_body"], COMPLETION)
    assert (call.upstream, call.session, call.subject, call.tags) == (
        "openai",
        "s1",
        "u1",
        {"team": "billing"},
    )
    assert (call.started_at, call.latency_ms, call.ttft_ms, call.stream) == (AT, 2500, 400, True)
    assert call.cost_usd == 0.0012


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({**LITELLM, "status": "failure", "response": None, "error_str": "no", "error_information": {"error_code": "429"}}, 429),
        ({**LITELLM, "status": "failure", "response": None, "error_str": "no"}, 500),
        ({**LANGFUSE, "level": "ERROR", "output": None, "status_message": "no"}, 500),
        ({**HELICONE, "response_status": 429, "response_body": {"error": {"message": "no"}}}, 429),
        ({**HELICONE, "response_status": -3, "response_body": None}, 500),
        ({"request": {"messages": ASKED}, "error": "no"}, 500),
        ({"request": {"messages": ASKED}, "response": {"error": {"message": "no"}}, "status": 503}, 503),
        ({"reqPayload": {"messages": ASKED}, "errorMessage": "no", "statusCode": 400}, 400),
    ],
)  # fmt: skip
def test_a_call_that_failed_is_one(line: dict[str, Any], status: int) -> None:
    call = call_of(line)

    assert (call.status, call.failed) == (status, True)
    assert call.response is not None
    assert "error" in call.response


@pytest.mark.parametrize(
    ("line", "endpoint"),
    [
        ({"request": {"prompt": "once"}, "response": {"choices": [{"text": " upon"}]}}, COMPLETIONS),
        (
            {"request": {"model": "text-embedding-3-small", "input": "x"}, "response": {"data": []}},
            EMBEDDINGS,
        ),
        ({"request": {"model": "gpt-5", "input": "x"}, "response": {"output": []}}, RESPONSES),
        ({"request": {"input": "x"}, "response": {"data": []}, "endpoint": "/v1/embeddings"}, EMBEDDINGS),
        ({**LITELLM, "call_type": "aembedding", "messages": "x", "response": {"data": []}}, EMBEDDINGS),
        ({**HELICONE, "request_path": "/v1/completions"}, COMPLETIONS),
    ],
)
def test_other_endpoints_are_known_by_their_name_or_their_shape(line: dict[str, Any], endpoint: str) -> None:
    assert call_of(line).endpoint == endpoint


@pytest.mark.parametrize(
    "line",
    [
        {**LANGFUSE, "type": "SPAN"},
        {**LITELLM, "call_type": "image_generation"},
        {**HELICONE, "request_path": "/v1/messages"},
    ],
)
def test_what_is_no_call_to_a_model_of_ours_is_no_failure(line: dict[str, Any]) -> None:
    with pytest.raises(OtherLineError):
        call_of(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ([], "the line is no JSON object"),
        ({"question": "x"}, "no known format has these fields; name it with --format"),
        ({"messages": ASKED}, "the last of 'messages' is no answer of an assistant"),
        ({"messages": [ANSWER]}, "'messages' holds an answer and no question"),
        ({"messages": ["x"]}, "one of 'messages' has no role"),
        (COMPLETION, "a completion without 'messages': add those that led to it"),
        ({"request": {"messages": ASKED}}, "'response' is no object"),
        ({"request": {"size": "big"}, "response": {}}, "'request' is none of chat, completions, embeddings or responses"),
        ({**LITELLM, "messages": "redacted-by-litellm"}, "'messages' is no list; were they logged?"),
        ({**LITELLM, "startTime": "soon"}, "'startTime' is no time"),
        ({**LITELLM, "startTime": 1e15}, "'startTime' is no time"),
        ({**LANGFUSE, "input": None}, "'input' holds no messages"),
        ({**LANGFUSE, "output": ""}, "'output' holds no answer"),
        ({**HELICONE, "request_body": None}, "'request_body' is no object; export with bodies"),
        ({**HELICONE, "response_body": {}}, "'response_body' is no object; export with bodies"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_says_which_field_is_at_fault(line: Any, reason: str) -> None:
    with pytest.raises(UnreadableLineError) as caught:
        call_of(line)

    assert str(caught.value) == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
damaged = st.sampled_from([LITELLM, LANGFUSE, HELICONE, {**COMPLETION, "messages": ASKED}]).flatmap(
    lambda line: st.dictionaries(st.sampled_from(sorted(line)), json_values, max_size=4).map(
        lambda changes: {**line, **changes}
    )
)


@given(damaged | json_values, st.sampled_from(SOURCES))
def test_no_line_breaks_an_import(line: Any, source: Any) -> None:
    with contextlib.suppress(UnreadableLineError, OtherLineError):
        assert isinstance(call_of(line, source), ImportedCall)
