"""What a worker captured becomes a row: counted, priced, redacted, and stored whatever its body is."""

from __future__ import annotations

import gzip
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.bodies.writer import BodyWriter
from gateway.traces.redaction.redact import Redactor
from gateway.traces.rows import RowBuilder, without_bodies
from gateway.traces.types import Attempt, Feedback, RolloutEvent, Trace
from tests.support.capture import ANSWER, REQUEST, captured_event, captured_feedback, captured_trace, record


def build(*args: Any, **changes: Any) -> Trace:
    row = RowBuilder(Redactor(b"k" * 32)).build(record(*args, **changes))
    assert row.table == "traces"
    assert isinstance(row.values, Trace)
    return row.values


def stream_of(answer: dict[str, Any]) -> bytes:
    chunk = {"id": answer["id"], "choices": [{"index": 0, "delta": answer["choices"][0]["message"]}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    chunks = [chunk, end, {"choices": [], "usage": answer["usage"]}]
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"


def test_a_trace_is_counted_and_priced() -> None:
    trace = build(captured_trace(started_at_us=1_700_000_000_123_456), REQUEST, ANSWER)
    assert (trace.tokens_in, trace.tokens_cached, trace.tokens_out) == (100, None, 20)
    assert trace.cost_usd == pytest.approx(140e-6)
    assert trace.finish_reason == "stop"
    assert trace.started_at == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert json.loads(trace.request or "") == REQUEST
    assert json.loads(trace.response or "") == ANSWER
    assert json.loads(trace.usage or "") == ANSWER["usage"]


def test_a_stream_is_stored_as_the_buffered_answer() -> None:
    trace = build(captured_trace(stream=True), REQUEST, stream_of(ANSWER))
    assert json.loads(trace.response or "") == ANSWER
    assert (trace.finish_reason, trace.tokens_out) == ("stop", 20)


def test_an_error_to_a_streaming_caller_is_read_as_the_json_it_is() -> None:
    error = {"error": {"message": "no such model", "code": "model_not_found"}}
    trace = build(captured_trace(stream=True, status=404, outcome="upstream_error"), REQUEST, error)
    assert json.loads(trace.response or "") == error
    assert (trace.tokens_in, trace.cost_usd, trace.finish_reason) == (None, None, None)


def test_a_stream_nobody_asked_for_is_assembled_too() -> None:
    trace = build(captured_trace(stream=False), REQUEST, b": wait\n\n" + stream_of(ANSWER))
    assert json.loads(trace.response or "") == ANSWER
    assert trace.tokens_out == 20


def test_a_page_in_place_of_a_stream_is_kept_as_the_text_it_is() -> None:
    page = b"<html>502 Bad Gateway</html>"
    trace = build(
        captured_trace(stream=True, status=502, outcome="upstream_error", error="status_5xx"), REQUEST, page
    )
    assert json.loads(trace.response or "") == page.decode()


def deflate_raw(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", deflate_raw),
        ("identity", bytes),
        (None, bytes),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_content_encodings_are_undone(encoding: str | None, encode: Any, stream: bool) -> None:
    body = stream_of(ANSWER) if stream else json.dumps(ANSWER).encode()
    trace = build(captured_trace(stream=stream, content_encoding=encoding), REQUEST, encode(body))
    assert json.loads(trace.response or "") == ANSWER


def test_a_compressed_stream_that_broke_off_is_kept_as_far_as_it_came() -> None:
    compressor = zlib.compressobj(wbits=31)
    half = compressor.compress(stream_of(ANSWER)[:150]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    trace = build(captured_trace(stream=True, content_encoding="gzip", outcome="truncated"), REQUEST, half)
    assert json.loads(trace.response or "")["choices"][0]["message"]["content"] == "On its way."
    assert trace.finish_reason is None


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"\x8b\x02\x80"), ("gzip", b"no gzip"), ("deflate", b"\x07\xff")]
)
def test_what_cannot_be_decoded_says_so(encoding: str, body: bytes) -> None:
    trace = build(captured_trace(content_encoding=encoding), REQUEST, body)
    assert json.loads(trace.response or "") == {"x_tracetune": {"undecoded": encoding, "bytes": len(body)}}


def test_metadata_only_keeps_no_body_and_still_counts() -> None:
    trace = build(captured_trace(capture="metadata"), REQUEST, ANSWER)
    assert (trace.request, trace.response) == (None, None)
    assert (trace.tokens_in, trace.tokens_out) == (100, 20)
    assert trace.cost_usd == pytest.approx(140e-6)


def test_a_missing_body_is_null_and_our_own_reason_is_kept_in_its_place() -> None:
    trace = build(captured_trace(outcome="client_cancelled"))
    assert (trace.request, trace.response) == (None, None)
    failed = build(captured_trace(outcome="timeout", error="no answer from mail@example.com"))
    reason = json.loads(failed.response or "")["x_tracetune"]["error"]
    assert reason.startswith("no answer from [EMAIL_")


def test_bodies_left_out_say_so_and_leave_the_row() -> None:
    trace = build(captured_trace(), bodies_left_out=True)
    assert (
        json.loads(trace.request or "")
        == json.loads(trace.response or "")
        == {"x_tracetune": {"left_out": True}}
    )
    assert without_bodies(record(captured_trace(), REQUEST)).request == b""


@given(
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.booleans(),
    st.sampled_from([None, "gzip", "deflate"]),
)
def test_no_body_breaks_a_row_and_what_is_stored_is_json(
    request: bytes, response: bytes, stream: bool, encoding: str | None
) -> None:
    trace = build(captured_trace(stream=stream, content_encoding=encoding), request, response)
    for text in (trace.request, trace.response, trace.usage):
        if text is not None:
            json.loads(text)
    msgspec.msgpack.encode(trace)


def test_tags_and_bodies_get_one_placeholder_for_one_value() -> None:
    secret = "john@example.com"
    trace = build(
        captured_trace(tags={"who": secret}),
        {"messages": [{"content": secret}]},
        {"choices": [{"message": {"content": secret}}]},
    )
    assert secret not in f"{trace.tags}{trace.request}{trace.response}"
    placeholder = trace.tags["who"]
    assert placeholder in (trace.request or "")
    assert placeholder in (trace.response or "")


def test_nothing_that_a_client_wrote_brings_a_secret_into_a_row() -> None:
    secret = "john@example.com"
    attempt = Attempt(
        upstream="u", server="s", model=secret, started_ms=0, ended_ms=1, status=404, error=None
    )
    trace = build(
        captured_trace(
            route="",
            session=f"mail {secret}",
            subject=secret,
            model=secret,
            attempts=[attempt],
            tags={secret: secret},
            traceparent=f"00-{secret}",
        ),
        {"user": secret, secret: [secret]},
        {"error": {"message": secret}},
    )
    assert secret not in repr(trace)
    assert trace.traceparent is None


def test_the_keys_that_rows_are_joined_by_stay_equal_where_they_were_and_different_where_not() -> None:
    rows = RowBuilder(Redactor(b"k" * 32))

    def session(client: str, key: str) -> str:
        trace = rows.build(record(captured_trace(client=client, session=key, subject=key))).values
        said = rows.build(record(captured_feedback(trace_id=None, client=client, session=key))).values
        assert isinstance(trace, Trace)
        assert isinstance(said, Feedback)
        assert said.session == trace.session == trace.subject
        return trace.session

    assert session("web", "a@b.de") == session("web", "a@b.de")
    assert len({session("web", "a@b.de"), session("web", "c@b.de"), session("app", "a@b.de")}) == 3
    for plain in ("session-1", "C4821", "019b76da-b1a2-7c3d-8e4f-000000000001", "5881539799"):
        assert session("web", plain) == plain


def test_an_incoming_traceparent_is_kept() -> None:
    header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert build(captured_trace(traceparent=header), {}, {}).traceparent == header


def test_without_redaction_text_is_stored_as_it_came() -> None:
    row = RowBuilder(None).build(record(captured_trace(), {"content": "john@example.com"}, ANSWER))
    assert isinstance(row.values, Trace)
    assert "john@example.com" in (row.values.request or "")


def test_feedback_on_a_trace_gets_the_placeholders_of_its_session() -> None:
    rows = RowBuilder(Redactor(b"k" * 32))
    trace = rows.build(record(captured_trace("t1", client="web", session="s1"), {"content": "a@b.de"})).values
    on_trace = rows.build(record(captured_feedback(kind="kept", text="a@b.de", client="web"))).values
    on_session = rows.build(
        record(captured_feedback(trace_id=None, session="s1", client="web", text="a@b.de"))
    ).values
    assert isinstance(trace, Trace)
    assert isinstance(on_trace, Feedback)
    assert isinstance(on_session, Feedback)
    assert on_trace.text == on_session.text
    assert on_trace.text is not None
    assert on_trace.text in (trace.request or "")
    assert "a@b.de" not in on_trace.text


def test_a_rollout_event_keeps_its_evidence_as_json() -> None:
    row = RowBuilder(None).build(record(captured_event(3)))
    assert row.table == "rollouts"
    assert isinstance(row.values, RolloutEvent)
    assert (row.values.version, json.loads(row.values.evidence)) == (3, {"table": []})


def test_a_body_is_cut_at_the_configured_size_and_its_answer_still_counts() -> None:
    long = {"messages": [{"role": "user", "content": "x" * 50_000}]}
    row = RowBuilder(None, BodyWriter(body_bytes=10_000)).build(record(captured_trace(), long, ANSWER))
    assert isinstance(row.values, Trace)
    assert len(row.values.request or "") <= 10_000
    assert json.loads(row.values.request or "")["x_tracetune"]["bytes"] == len(
        json.dumps(long, separators=(",", ":"))
    )
    assert json.loads(row.values.response or "") == ANSWER
    assert row.values.tokens_in == 100
