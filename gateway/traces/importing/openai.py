"""Lines in OpenAI's own shapes, and in those that tools around it share.

Fine-tuning files (OpenPipe's datasets are such files with a `split`), stored completions with their messages,
logs of request and response, and reports to OpenPipe.
"""

from __future__ import annotations

from typing import Any

from gateway.traces.importing.call import (
    ENDPOINTS,
    ImportedCall,
    Line,
    UnreadableLineError,
    a_cost,
    an_object,
    between_ms,
    completion,
    endpoint_of,
    http_status,
    moment,
    number,
    string_tags,
    text,
)

# Of a stored completion: what was part of its request, and what of its answer.
_ASKED = (
    *("model", "tools", "tool_choice", "response_format", "temperature", "top_p", "seed", "metadata"),
    *("presence_penalty", "frequency_penalty"),
)
_ANSWERED = ("id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint")
_SET_BY_TRAINING = "weight"  # of a message in a fine-tuning file: nothing that was ever sent


def from_fine_tuning(line: Line) -> ImportedCall:
    """A line of a fine-tuning file: the last message is the answer, whole by its nature."""
    messages = _plain_messages(line.get("messages"))
    asked, answer = messages[:-1], messages[-1]
    if answer.get("role") != "assistant":
        raise UnreadableLineError("the last of 'messages' is no answer of an assistant")
    if not asked:
        raise UnreadableLineError("'messages' holds an answer and no question")
    request = {"messages": asked} | {
        name: line[name] for name in ("model", "tools", "tool_choice", "parallel_tool_calls") if name in line
    }
    split = text(line, "split")
    return ImportedCall(
        request=request,
        response=completion(answer, finish_reason="tool_calls" if answer.get("tool_calls") else "stop"),
        model=text(line, "model") or "",
        tags=string_tags(line.get("metadata")) | ({"split": split} if split else {}),
    )


def from_stored_completion(line: Line) -> ImportedCall:
    """A stored completion, to which the messages that led to it were added."""
    if not isinstance(line.get("messages"), list):
        raise UnreadableLineError("a completion without 'messages': add those that led to it")
    request = {"messages": _plain_messages(line["messages"])}
    request |= {name: line[name] for name in _ASKED if line.get(name) is not None}
    metadata = string_tags(line.get("metadata"))
    return ImportedCall(
        request=request,
        response={name: line[name] for name in _ANSWERED if name in line},
        model=text(line, "model") or "",
        started_at=moment(line, "created"),
        session=metadata.get("session_id"),
        subject=text(line, "safety_identifier", "input_user"),
        tags={name: value for name, value in metadata.items() if name != "session_id"},
    )


def from_request_and_response(line: Line) -> ImportedCall:
    """A log of what was sent and what came back, under the names of this project or of others."""
    request = an_object(line, "request", "reqPayload")
    if request is None:
        raise UnreadableLineError("'request' is no object")
    error = text(line, "errorMessage", "error")
    response = an_object(line, "response", "respPayload")
    failed = error is not None or (response is not None and set(response) == {"error"})
    status = http_status(line.get("status", line.get("statusCode")), failed=failed)
    if response is None and status < 400:
        raise UnreadableLineError("'response' is no object")
    started_at = moment(line, "started_at", "created_at", "timestamp", "requestedAt")
    latency_ms = number(line, "latency_ms", "duration_ms")
    return ImportedCall(
        request=request,
        response=response if response is not None else {"error": {"message": error or "the call failed"}},
        endpoint=_endpoint(line, request),
        model=text(line, "model") or text(request, "model") or "",
        upstream=text(line, "upstream", "provider") or "",
        started_at=started_at,
        latency_ms=latency_ms
        if latency_ms is not None
        else between_ms(started_at, moment(line, "receivedAt")),
        ttft_ms=number(line, "ttft_ms"),
        stream=request.get("stream") is True,
        status=status,
        session=text(line, "session", "session_id") or _session_of(request),
        subject=text(line, "subject", "user_id") or text(request, "safety_identifier", "user"),
        tags=string_tags(line.get("tags")),
        cost_usd=a_cost(line, "cost_usd"),
    )


def _endpoint(line: Line, request: Line) -> str:
    named = text(line, "endpoint", "url", "path")
    if named is not None:
        found = next(
            (endpoint for endpoint in ENDPOINTS if named.endswith(endpoint.removeprefix("/v1"))), None
        )
    else:
        found = endpoint_of(request)
    if found is None:
        raise UnreadableLineError("'request' is none of chat, completions, embeddings or responses")
    return found


def _session_of(request: Line) -> str | None:
    metadata = request.get("metadata")
    return text(metadata, "session_id") if isinstance(metadata, dict) else None


def _plain_messages(messages: Any) -> list[Line]:
    if not isinstance(messages, list) or not messages:
        raise UnreadableLineError("'messages' is no list, or an empty one")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise UnreadableLineError("one of 'messages' has no role")
    return [
        {name: value for name, value in message.items() if name != _SET_BY_TRAINING} for message in messages
    ]
