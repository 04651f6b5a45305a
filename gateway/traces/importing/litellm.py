"""LiteLLM's standard logging payload, as its callbacks write it."""

from __future__ import annotations

from gateway.traces.importing.call import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    ImportedCall,
    Line,
    OtherLineError,
    UnreadableLineError,
    a_cost,
    an_object,
    between_ms,
    decoded,
    failure,
    http_status,
    moment,
    string_tags,
    text,
)

_ENDPOINTS = {
    "completion": CHAT,
    "acompletion": CHAT,
    "text_completion": COMPLETIONS,
    "atext_completion": COMPLETIONS,
    "embedding": EMBEDDINGS,
    "aembedding": EMBEDDINGS,
    "responses": RESPONSES,
    "aresponses": RESPONSES,
}
_ASKED_UNDER = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input", RESPONSES: "input"}


def from_litellm(line: Line) -> ImportedCall:
    """One payload. Its `trace_id` is the session: the calls of one request or conversation share it."""
    endpoint = _ENDPOINTS.get(str(line.get("call_type")))
    if endpoint is None:
        raise OtherLineError("a call of LiteLLM to something else than a model of text")
    asked = decoded(line.get("messages"))
    if endpoint == CHAT and not isinstance(asked, list):
        raise UnreadableLineError("'messages' is no list; were they logged?")
    failed = line.get("status") == "failure"
    response = an_object(line, "response")
    if failed:
        response = failure(text(line, "error_str"))
    elif response is None:
        raise UnreadableLineError("'response' is no object; was it logged?")
    model = text(line, "model") or ""
    request = {
        "model": text(line, "model_group") or model,
        _ASKED_UNDER[endpoint]: asked,
        **(an_object(line, "model_parameters") or {}),
    }
    started_at = moment(line, "startTime")
    stream = line.get("stream") is True
    first_token_at = moment(line, "completionStartTime") if stream else None
    return ImportedCall(
        request=request,
        response=response,
        endpoint=endpoint,
        model=model,
        upstream=text(line, "custom_llm_provider") or "",
        started_at=started_at,
        latency_ms=between_ms(started_at, moment(line, "endTime")),
        ttft_ms=between_ms(started_at, first_token_at),
        stream=stream,
        status=http_status((an_object(line, "error_information") or {}).get("error_code"), failed=failed),
        session=text(line, "trace_id"),
        subject=text(line, "end_user"),
        tags=string_tags(line.get("request_tags")),
        cost_usd=a_cost(line, "response_cost"),
    )
