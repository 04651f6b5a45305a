"""Helicone's requests, from its export tool (with bodies) or its query API."""

from __future__ import annotations

from gateway.traces.importing.call import (
    ENDPOINTS,
    ImportedCall,
    Line,
    OtherLineError,
    UnreadableLineError,
    a_cost,
    an_object,
    between_ms,
    endpoint_of,
    failure,
    http_status,
    moment,
    number,
    string_tags,
    text,
)

_SESSION = "Helicone-Session-Id"
_OWN_PROPERTY = "Helicone-"


def from_helicone(line: Line) -> ImportedCall:
    """One request with its bodies. Its properties are the tags."""
    request = an_object(line, "request_body")
    if not request:
        raise UnreadableLineError("'request_body' is no object; export with bodies")
    answer = an_object(line, "response_body")
    status_said = number(line, "response_status")
    failed = status_said is not None and not 200 <= status_said < 400
    if not answer:
        if not failed:
            raise UnreadableLineError("'response_body' is no object; export with bodies")
        answer = failure(None)
    properties = string_tags(line.get("request_properties")) or string_tags(line.get("properties"))
    started_at = moment(line, "request_created_at")
    delay_ms = number(line, "delay_ms")
    answered_at = moment(line, "response_created_at")
    return ImportedCall(
        request=request,
        response=answer,
        endpoint=_endpoint(line, request),
        model=text(line, "response_model", "model", "request_model") or "",
        upstream=(text(line, "provider") or "").lower(),
        started_at=started_at,
        latency_ms=delay_ms if delay_ms is not None else between_ms(started_at, answered_at),
        ttft_ms=number(line, "time_to_first_token"),
        stream=request.get("stream") is True,
        status=http_status(None if status_said is None else int(status_said), failed=failed),
        session=properties.get(_SESSION),
        subject=text(line, "request_user_id"),
        tags={name: value for name, value in properties.items() if not name.startswith(_OWN_PROPERTY)},
        cost_usd=a_cost(line, "cost", "costUSD"),
    )


def _endpoint(line: Line, request: Line) -> str:
    path = (text(line, "request_path") or "").partition("?")[0]
    found = next((endpoint for endpoint in ENDPOINTS if path.endswith(endpoint.removeprefix("/v1"))), None)
    found = found or (endpoint_of(request) if not path or not path.startswith("/") else None)
    if found is None:
        raise OtherLineError("a request of Helicone to another API than OpenAI's")
    return found
