"""Langfuse's observations, from its API (`startTime`) or its blob storage export (`start_time`)."""

from __future__ import annotations

from typing import Any

from gateway.traces.importing.call import (
    ImportedCall,
    Line,
    OtherLineError,
    UnreadableLineError,
    a_cost,
    an_object,
    between_ms,
    completion,
    decoded,
    failure,
    http_status,
    moment,
    number,
    string_tags,
    text,
)

GENERATION = "GENERATION"


def from_langfuse(line: Line) -> ImportedCall:
    """One generation; observations of other types are no calls. Without a session its trace is one."""
    if line.get("type") != GENERATION:
        raise OtherLineError("an observation of Langfuse that is no generation")
    model = text(line, "model", "provided_model_name", "providedModelName") or ""
    failed = line.get("level") == "ERROR"
    started_at = moment(line, "startTime", "start_time")
    first_token_at = moment(line, "completionStartTime", "completion_start_time")
    costs = an_object(line, "costDetails", "cost_details") or {}
    answer = failure(text(line, "statusMessage", "status_message")) if failed else _answer(line, model)
    environment = text(line, "environment")
    return ImportedCall(
        request=_request(line, model),
        response=answer,
        model=model,
        started_at=started_at,
        latency_ms=between_ms(started_at, moment(line, "endTime", "end_time")),
        ttft_ms=between_ms(started_at, first_token_at),
        stream=first_token_at is not None,
        status=http_status(None, failed=failed),
        session=text(line, "sessionId", "session_id", "traceId", "trace_id"),
        subject=text(line, "userId", "user_id"),
        tags=string_tags(line.get("tags")) | ({"environment": environment} if environment else {}),
        cost_usd=a_cost(line, "totalCost", "total_cost", "calculatedTotalCost") or a_cost(costs, "total"),
    )


def _request(line: Line, model: str) -> Line:
    asked = decoded(line.get("input"))
    if isinstance(asked, str) and asked:
        asked = [{"role": "user", "content": asked}]
    if isinstance(asked, list):
        asked = {"messages": asked}
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
        raise UnreadableLineError("'input' holds no messages")
    parameters = an_object(line, "modelParameters", "model_parameters") or {}
    return {"model": model, **parameters, **asked}


def _answer(line: Line, model: str) -> Line:
    """The answer of a generation. Langfuse keeps what it said, seldom why it ended."""
    said = decoded(line.get("output"))
    if isinstance(said, dict) and isinstance(said.get("choices"), list):
        return said
    message = _message(said)
    if message is None:
        raise UnreadableLineError("'output' holds no answer")
    return completion(message, finish_reason=None, model=model, usage=_usage(line))


def _message(said: Any) -> Line | None:
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if isinstance(said, str) and said:
        return {"content": said}
    if isinstance(said, dict) and ("content" in said or "tool_calls" in said):
        return said
    return None


def _usage(line: Line) -> Line | None:
    """Tokens, where input and output are all of them: what other parts overlap with, Langfuse leaves open."""
    details = an_object(line, "usageDetails", "usage_details", "usage")
    if details is None:
        return None
    into, out, total = number(details, "input"), number(details, "output"), number(details, "total")
    if into is None or out is None or into + out != total:
        return None
    return {"prompt_tokens": int(into), "completion_tokens": int(out), "total_tokens": int(total)}
