"""A response that broke off or failed is no success, to the client and in the trace (law 5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.responses import (
    FAILED,
    ask,
    numbered,
    opening,
    responds,
    streams_response,
    text_delta,
    typed,
    whole_stream,
)
from tests.support.upstream import DONE, Script, ScriptedUpstream, answers_status, sends, streams_events

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
GAP_S = 0.05  # so that the first content is with the client before the stream ends
BEGUN = [*opening(), text_delta("half an")]
WHOLE = whole_stream(["Hel", "lo"])


def error_event(answer: httpx.Response, before: list[dict[str, Any]]) -> dict[str, Any]:
    """The event of ours that follows *before*."""
    sent = b"".join(numbered(before))
    assert answer.content.startswith(sent)
    name, _, data = answer.content.removeprefix(sent).partition(b"\n")
    assert name == b"event: error"
    return json.loads(data.removeprefix(b"data: "))


def malformed_chunk() -> Script:
    async def script(received, reply) -> None:
        await reply.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        await reply.chunk(b"".join(numbered(BEGUN)))
        await reply.pause(GAP_S)
        await reply.raw(b"zz\r\nnot a chunk\r\n")
        reply.close()

    return script


CUT = b"".join(numbered(BEGUN))
ENDINGS = {
    "closed": (streams_response(BEGUN, gap_s=GAP_S, then="close"), "disconnected"),
    "reset": (streams_response(BEGUN, gap_s=GAP_S, then="reset"), "disconnected"),
    "ended in order": (streams_response(BEGUN, gap_s=GAP_S), "no_finish_reason"),
    "ended with chat's end mark": (
        streams_events([*numbered(BEGUN), DONE], gap_s=GAP_S),
        "no_finish_reason",
    ),
    "silent": (streams_response(BEGUN, gap_s=GAP_S, then="hang"), "idle_timeout"),
    "not json": (streams_events([*numbered(BEGUN), b"data: <oops>\n\n"], gap_s=GAP_S), "not_json"),
    "malformed chunk": (malformed_chunk(), "protocol"),
    "half an event": (streams_events([CUT, b'data: {"ty'], gap_s=GAP_S, then="close"), "disconnected"),
    "all at once": (
        sends(HEAD + b"content-length: %d\r\n\r\n" % len(CUT) + CUT),
        "no_finish_reason",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_response_cut_short_ends_in_a_typed_error_event(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    upstream.default, reason = ENDINGS[name]
    answer = ask(gateway, stream=True)
    trace = gateway.trace()
    error = error_event(answer, BEGUN)

    assert (error["type"], error["code"], error["param"]) == ("error", "stream_truncated", None)
    assert reason in error["message"]
    assert error["sequence_number"] == len(BEGUN)
    assert (trace.outcome, trace.error, trace.status) == ("truncated", reason, 200)
    assert len(upstream.received) == 1


def test_an_error_after_an_event_without_its_blank_line_can_still_be_read(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = sends(HEAD + b"\r\n" + b"".join(numbered(BEGUN)).rstrip(b"\n"))
    answer = ask(gateway, stream=True)
    last, ours = answer.content.split(b"\n\n")[-3:-1]

    assert last == numbered(BEGUN)[-1].rstrip(b"\n")
    assert ours.startswith(b"event: error\ndata: ")
    assert gateway.trace().outcome == "truncated"


FAILURES = {
    "failed": numbered([*BEGUN, typed("response.failed", response=FAILED)])[-1],
    "error": numbered([*BEGUN, typed("error", code="server_error", message="x", param=None)])[-1],
    "nested error": b'event: error\ndata: {"error": {"message": "x"}}\n\n',
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_that_the_upstream_reports_after_content_is_the_clients_to_read(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    events = [*numbered(BEGUN), FAILURES[name]]
    upstream.default = streams_events(events, gap_s=GAP_S)
    answer = ask(gateway, stream=True)
    trace = gateway.trace()

    assert answer.content == b"".join(events)
    assert (trace.outcome, trace.error) == ("upstream_error", "error_in_200")
    assert gateway.records()[0].response == answer.content
    assert len(upstream.received) == 1


DIES = {
    "empty": streams_events([]),
    "chat's end mark": streams_events([DONE]),
    "opening alone": streams_response(opening(), then="close"),
    "comment": streams_events([b": comment\n\n"], then="reset"),
    "not json": streams_events([b"data: <html>\n\n"]),
    **{name: streams_events([*numbered(opening()), event]) for name, event in FAILURES.items()},
}


@pytest.mark.parametrize("name", DIES)
def test_a_response_that_dies_before_its_first_content_is_tried_again(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    upstream.then(DIES[name])
    upstream.default = streams_response(WHOLE)
    answer = ask(gateway, stream=True)
    trace = gateway.trace()

    assert answer.content == gateway.records()[0].response == b"".join(numbered(WHOLE))
    assert (trace.outcome, [attempt.error is None for attempt in trace.attempts]) == ("ok", [False, True])


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_before_content_moves_to_a_fallback(upstream: ScriptedUpstream, tmp_path: Path, name: str):
    with ScriptedUpstream() as other:
        config = config_for(upstream.base_url, retries={"max": 0})
        config["upstreams"].append({"name": "other", "base_url": other.base_url})
        config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "larger"}]
        upstream.default = streams_events([*numbered(opening()), FAILURES[name]])
        other.default = streams_response(WHOLE)
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway, stream=True)
            trace = gateway.trace()

    assert answer.content == b"".join(numbered(WHOLE))
    assert (trace.outcome, trace.upstream, trace.model) == ("ok", "other", "larger")


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_that_comes_every_time_passes_as_the_upstream_gave_it(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    events = [*numbered(opening()), FAILURES[name]]
    upstream.default = streams_events(events)
    answer = ask(gateway, stream=True)

    assert answer.content == b"".join(events)
    assert (gateway.trace().outcome, len(gateway.trace().attempts)) == ("upstream_error", 3)


def test_a_whole_response_that_failed_is_tried_again_and_then_passed_on(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    failed = answers_status(200, FAILED)
    upstream.then(failed)
    upstream.default = responds()
    assert ask(gateway).json()["status"] == "completed"

    upstream.default = failed
    assert ask(gateway).json() == FAILED
    assert [trace.outcome for trace in gateway.traces(2)] == ["ok", "upstream_error"]
