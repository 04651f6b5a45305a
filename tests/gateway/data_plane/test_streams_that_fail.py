"""A stream that ends without a finish reason is an error to the client, however politely it ends (law 5)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from gateway.data_plane import relay_stream
from tests.support.request_path import ROUTE, RunningGateway, chat, config_for, running_gateway
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    Script,
    ScriptedUpstream,
    delta,
    event,
    send_events,
    sends,
    stream_events,
    streams_events,
)

pytestmark = pytest.mark.transports("native", "httpx")
FIRST = event(delta("half an"))
LAST = event(delta(finish="stop"))
ERROR = event({"error": {"message": "overloaded", "code": "x"}})
GAP_S = 0.05  # so that the first content is with the client before the stream ends
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def ask(gateway: RunningGateway, **fields) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(stream=True, **fields), timeout=10)


def cut(then: str) -> Script:
    return streams_events([FIRST], gap_s=GAP_S, then=then)


def malformed_chunk() -> Script:
    async def script(received, reply) -> None:
        await reply.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        await reply.chunk(FIRST)
        await reply.pause(GAP_S)
        await reply.raw(b"zz\r\nnot a chunk\r\n")
        reply.close()

    return script


def wrong_length() -> Script:
    async def script(received, reply) -> None:
        await reply.raw(HEAD + b"content-length: 5000\r\n\r\n" + FIRST)
        await reply.pause(GAP_S)
        reply.close()

    return script


ENDINGS = {
    "closed": (cut("close"), "disconnected"),
    "reset": (cut("reset"), "disconnected"),
    "ended in order": (cut("end"), "no_finish_reason"),
    "ended with the end mark": (streams_events([FIRST, DONE], gap_s=GAP_S), "no_finish_reason"),
    "silent": (cut("hang"), "idle_timeout"),
    "not json": (streams_events([FIRST, b"data: <oops>\n\n", LAST, DONE], gap_s=GAP_S), "not_json"),
    "malformed chunk": (malformed_chunk(), "protocol"),
    "wrong length": (wrong_length(), "disconnected"),
    "half an event": (streams_events([FIRST, b'data: {"cho'], gap_s=GAP_S, then="close"), "disconnected"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_stream_cut_short_ends_in_an_error_event_and_no_end_mark(
    gateway: RunningGateway, upstream: ScriptedUpstream, name: str
):
    upstream.default, reason = ENDINGS[name]
    answer = ask(gateway)
    trace = gateway.trace()

    assert answer.content.startswith(FIRST)
    error = json.loads(answer.content.removeprefix(FIRST).removeprefix(b"data: "))["error"]
    assert error["code"] == "stream_truncated"
    assert b"[DONE]" not in answer.content
    assert (trace.outcome, trace.error, trace.status) == ("truncated", reason, 200)
    assert gateway.records()[0].response.startswith(FIRST)
    assert len(upstream.received) == 1


@pytest.mark.parametrize("last", [[], [DONE], [b"data: <oops>\n\n"]], ids=["end", "end mark", "not json"])
def test_an_answer_that_began_is_truncated_though_all_of_it_came_at_once(
    gateway: RunningGateway, upstream: ScriptedUpstream, last: list[bytes]
):
    body = b"".join([FIRST, *last])
    upstream.default = sends(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    answer = ask(gateway)

    assert answer.content.startswith(FIRST)
    assert b"stream_truncated" in answer.content
    assert b"[DONE]" not in answer.content
    assert gateway.trace().outcome == "truncated"
    assert gateway.records()[0].response.startswith(FIRST)
    assert len(upstream.received) == 1


@pytest.mark.transports("native", "httpx", "http2")
@pytest.mark.parametrize("then", ["end", "close", "reset", "hang"])
def test_a_stream_that_lacks_only_its_end_mark_is_complete(
    gateway: RunningGateway, upstream: ScriptedUpstream, then: str
):
    upstream.default = streams_events([FIRST, LAST], gap_s=GAP_S, then=then)
    started = time.monotonic()
    answer = ask(gateway)

    assert answer.content == FIRST + LAST
    assert gateway.trace().outcome == "ok"
    assert time.monotonic() - started < 2


@pytest.mark.transports("native")  # no transport has a part in it
def test_an_end_mark_is_not_waited_for_as_long_as_a_text(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = streams_events([FIRST, LAST], then="hang")
    with running_gateway(tmp_path, config_for(upstream.base_url, timeouts={"idle_s": 8})) as gateway:
        answer = ask(gateway)

        assert answer.content == FIRST + LAST
        assert (gateway.trace().outcome, gateway.trace().error) == ("ok", None)
        assert gateway.trace().latency_ms < relay_stream.FINISH_GRACE_S * 1000 + 2000


@pytest.mark.transports("native")  # no transport has a part in it
def test_every_answer_of_several_needs_its_finish_reason(gateway: RunningGateway, upstream: ScriptedUpstream):
    events = [event(delta("a", index=0)), event(delta("b", index=1)), event(delta(finish="stop", index=0))]
    upstream.default = streams_events([*events, DONE], gap_s=GAP_S)

    assert b"stream_truncated" in ask(gateway, n=2).content
    assert gateway.trace().outcome == "truncated"


def test_the_answer_to_each_prompt_is_waited_for(upstream: ScriptedUpstream, tmp_path: Path):
    """A server may answer one prompt after the other; a finish reason is not the end then."""

    def chunk(text: str, finish: str | None, index: int) -> bytes:
        return event({"choices": [{"index": index, "text": text, "finish_reason": finish}]})

    events = [chunk("a", "stop", 0), chunk("b", None, 1), chunk("", "stop", 1), DONE]

    async def script(received: Received, reply: Reply) -> None:
        await send_events(reply, events[:1], end=False)
        await reply.pause(relay_stream.FINISH_GRACE_S * 1.5)
        for each in events[1:]:
            await reply.chunk(each)
        await reply.end_chunks()

    upstream.default = script
    body = {"model": ROUTE, "prompt": ["one", "two"], "stream": True}
    with_patience = {"idle_s": 5, "total_s": 10}
    with running_gateway(tmp_path, config_for(upstream.base_url, timeouts=with_patience)) as gateway:
        answer = httpx.post(f"{gateway.base_url}/completions", json=body, timeout=10)

        assert answer.content == b"".join(events)
        assert gateway.trace().outcome == "ok"


def test_our_error_after_an_event_without_its_blank_line_can_still_be_read(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = sends(HEAD + b"\r\n" + FIRST.rstrip(b"\n"))
    first, ours, _ = ask(gateway).content.split(b"\n\n")

    assert first == FIRST.rstrip(b"\n")
    assert json.loads(ours.removeprefix(b"data: "))["error"]["code"] == "stream_truncated"
    assert gateway.trace().outcome == "truncated"


def test_an_opening_beyond_the_bound_passes_and_is_not_begun_again(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    comment = b": " + b"x" * (relay_stream.MAX_OPENING_BYTES // 4) + b"\n\n"
    upstream.default = streams_events([comment] * 5, then="close")
    answer = ask(gateway)

    assert answer.status_code == 200
    assert answer.content.startswith(comment * 5)
    assert b"stream_truncated" in answer.content
    assert (gateway.trace().outcome, gateway.trace().ttft_ms) == ("truncated", None)
    assert len(upstream.received) == 1


@pytest.mark.transports("native")  # no transport has a part in it
@pytest.mark.parametrize("last", [[ERROR, DONE], [ERROR + DONE]], ids=["apart", "at once"])
def test_an_error_event_of_the_upstream_is_the_clients_to_read_and_no_end_mark_follows(
    gateway: RunningGateway, upstream: ScriptedUpstream, last: list[bytes]
):
    upstream.default = streams_events([FIRST, *last], gap_s=GAP_S)
    answer = ask(gateway)

    assert answer.content == FIRST + ERROR
    assert (gateway.trace().outcome, gateway.trace().error) == ("upstream_error", "error_in_200")


@pytest.mark.parametrize(
    "dies",
    [
        streams_events([]),
        streams_events([DONE]),
        streams_events([event(delta("", role="assistant"))], then="close"),
        streams_events([b": comment\n\n"], then="reset"),
        streams_events([event({"error": {"message": "try again"}})]),
        streams_events([b"data: <html>\n\n"]),
        sends(HEAD + b"\r\n"),
    ],
    ids=["empty", "end mark alone", "role alone", "comment", "error first", "not json", "no body"],
)
def test_a_stream_that_dies_before_its_first_content_is_tried_again(
    gateway: RunningGateway, upstream: ScriptedUpstream, dies: Script
):
    upstream.then(dies)
    upstream.default = streams_events(stream_events(["whole"]))
    answer = ask(gateway)
    trace = gateway.trace()

    assert answer.content == b"".join(stream_events(["whole"]))
    assert (trace.outcome, len(trace.attempts)) == ("ok", 2)
    assert trace.attempts[0].error is not None
    assert gateway.records()[0].response == answer.content


@pytest.mark.transports("native")  # no transport has a part in it
def test_a_stream_that_only_ever_dies_empty_is_a_502(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams_events([DONE])
    answer = ask(gateway)

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert gateway.trace().outcome == "upstream_error"


@pytest.mark.transports("native")  # no transport has a part in it
def test_an_error_that_comes_first_every_time_passes_as_the_upstream_gave_it(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    error = event({"error": {"message": "no capacity"}})
    upstream.default = streams_events([error])

    assert ask(gateway).content == error
    assert (gateway.trace().outcome, len(gateway.trace().attempts)) == ("upstream_error", 3)


def test_a_silent_start_runs_into_the_first_token_deadline(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = streams_events([b": wait\n\n"] * 20, gap_s=0.1, then="hang")
    timeouts = {"first_token_s": 0.5, "idle_s": 5, "total_s": 8}
    with running_gateway(tmp_path, config_for(upstream.base_url, timeouts=timeouts)) as gateway:
        answer = ask(gateway)
        trace = gateway.trace()

    assert answer.status_code == 504
    assert "first_token" in answer.json()["error"]["message"]
    assert (trace.outcome, trace.attempts[0].error) == ("timeout", "first_token_timeout")
    assert 500 <= trace.latency_ms < 1500


def test_a_stream_that_never_ends_runs_into_the_total_deadline(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = streams_events([FIRST] * 200, gap_s=0.05)
    timeouts = {"idle_s": 5, "total_s": 1}
    with running_gateway(tmp_path, config_for(upstream.base_url, timeouts=timeouts)) as gateway:
        answer = ask(gateway)
        trace = gateway.trace()

    assert b"stream_truncated" in answer.content
    assert (trace.outcome, trace.error) == ("truncated", "total_timeout")
    assert 1000 <= trace.latency_ms < 2000
    assert upstream.received[0].disconnected.wait(2)
