"""The two bodies of a captured trace as JSON values: decoded, a stream assembled, or why there is none."""

from __future__ import annotations

from typing import Any

from gateway.traces.assembling.assemble import assemble
from gateway.traces.assembling.content import decode_content, is_event_stream
from gateway.traces.assembling.jsontext import MARKER, parse_json
from gateway.traces.segments import Record
from gateway.traces.types import CapturedTrace


def decoded_request(record: Record) -> Any:
    """The decoded request; None when there was none."""
    if record.bodies_left_out:
        return {MARKER: {"left_out": True}}
    return parse_json(record.request) if record.request else None


def decoded_answer(captured: CapturedTrace, response: bytes) -> Any:
    """The decoded answer, a stream assembled; None when there was none."""
    if not response:
        return None
    data = decode_content(response, captured.content_encoding)
    if data is None:
        return {MARKER: {"undecoded": captured.content_encoding, "bytes": len(response)}}
    if not data:
        return None
    if is_event_stream(data, streamed=captured.stream):
        assembled = assemble(data)
        if assembled is not None or is_event_stream(data, streamed=False):
            return assembled
    return parse_json(data)  # a page of a proxy that was in the way, say, where a stream was asked for


def response_of(answer: Any, captured: CapturedTrace, record: Record) -> Any:
    """*answer*, or in its absence what is known about why there is none."""
    if record.bodies_left_out:
        return {MARKER: {"left_out": True}}
    if answer is None and captured.error is not None:
        return {MARKER: {"error": captured.error}}
    return answer
