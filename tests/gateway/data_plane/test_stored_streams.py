"""A stored response may be streamed again, and a large one passes in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.openai_client import KINDS, Kind, see
from tests.support.request_path import RunningGateway
from tests.support.responses import (
    message_item,
    numbered,
    response_object,
    streams_response,
    whole_stream,
)
from tests.support.stored import request
from tests.support.upstream import Received, Reply, Script, ScriptedUpstream, streams_events

WHOLE = whole_stream(["Hel", "lo"])


def again(client: Any) -> Any:
    return client.responses.retrieve("resp_1", stream=True, starting_after=1)


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_a_response_that_is_streamed_again_gives_the_same_events(
    storing: RunningGateway, upstream: ScriptedUpstream, end: str, kind: Kind
):
    last = {"type": f"response.{end}", "response": response_object("Hello", end)}
    events = numbered([*WHOLE[:-1], last])[2:]
    upstream.default = streams_events(events)
    through, direct = (see(kind, url, again) for url in (storing.base_url, upstream.base_url))
    trace = storing.trace()

    assert through == direct
    assert len(through.objects) == len(events)
    assert upstream.received[0].target == "/v1/responses/resp_1?starting_after=1&stream=true"
    assert (trace.stream, trace.capture) == (True, "metadata")
    assert trace.outcome == ("upstream_error" if end == "failed" else "ok")


@pytest.mark.transports("native", "httpx")
@pytest.mark.parametrize("then", ["end", "close", "reset", "hang"])
@pytest.mark.parametrize("told", [0, 5])
def test_a_response_that_is_streamed_again_and_breaks_off_is_no_success(
    storing: RunningGateway, upstream: ScriptedUpstream, then: str, told: int
):
    upstream.default = streams_response(WHOLE[:told], gap_s=0.02, then=then)
    answer = request(storing, "GET", "/responses/resp_1?stream=true")
    trace = storing.trace()

    if told:
        assert answer.content.startswith(b"".join(numbered(WHOLE[:told])))
        error = json.loads(answer.content.rpartition(b"data: ")[2])
        assert (error["type"], error["code"]) == ("error", "stream_truncated")
        assert trace.outcome == "truncated"
    else:
        assert answer.status_code in (502, 504)
        assert trace.outcome in ("upstream_error", "timeout")


def test_a_stream_of_one_that_has_only_failed_passes_as_it_is(
    storing: RunningGateway, upstream: ScriptedUpstream
):
    events = numbered([{"type": "response.failed", "response": response_object(status="failed")}])
    upstream.default = streams_events(events)
    answer = request(storing, "GET", "/responses/resp_1?stream=true")

    assert (answer.status_code, answer.content) == (200, b"".join(events))
    assert answer.headers["content-type"] == "text/event-stream"
    assert (storing.trace().outcome, storing.trace().capture) == ("upstream_error", "metadata")
    assert storing.records()[0].response == b""


def drips(piece: bytes, count: int) -> Script:
    async def script(received: Received, reply: Reply) -> None:
        await reply.head(
            200, ("content-type", "application/json"), ("content-length", str(len(piece) * count))
        )
        for _ in range(count):
            await reply.raw(piece)
            await reply.pause(0.001)

    return script


def test_a_large_one_passes_in_pieces(storing: RunningGateway, upstream: ScriptedUpstream):
    text = json.dumps(response_object(output=[message_item("x" * 50_000)]))
    piece = text.encode() + b"\n"
    upstream.default = drips(piece, 60)

    assert request(storing, "GET", "/responses/resp_1").content == piece * 60
    assert storing.trace().outcome == "ok"
