"""A response may think and use tools for long: its opening is not held for ever, nor is thought a stall."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.data_plane import relay_stream
from tests.support.request_path import RunningGateway, config_for, post_bytes, running_gateway
from tests.support.responses import (
    ask,
    asked,
    created,
    ended,
    item_added,
    named,
    numbered,
    opening,
    streams_response,
    text_delta,
    typed,
    whole_stream,
)
from tests.support.upstream import Received, Reply, Script, ScriptedUpstream, send_events

IDLE_S = 0.3
FIRST_TOKEN_S = 1.2
THOUGHT_S = 0.7  # longer than one deadline, shorter than the other
KEEPALIVE = typed("keepalive")
SEARCHING = typed("response.web_search_call.searching", output_index=0, item_id="ws_1")
THOUGHT = typed("response.reasoning_summary_part.done", output_index=0, summary_index=0)


@pytest.fixture
def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    timeouts = {"first_token_s": FIRST_TOKEN_S, "idle_s": IDLE_S, "total_s": 8}
    with running_gateway(tmp_path, config_for(upstream.base_url, timeouts=timeouts)) as running:
        yield running


def in_parts(*parts: list[dict[str, Any]], pause_s: float, then: str = "end") -> Script:
    """The events of each part at once, with a pause between the parts."""
    wire = numbered([each for part in parts for each in part])

    async def script(received: Received, reply: Reply) -> None:
        await send_events(reply, wire[: len(parts[0])], end=False)
        at = len(parts[0])
        for part in parts[1:]:
            await reply.pause(pause_s)
            for each in wire[at : at + len(part)]:
                await reply.chunk(each)
            at += len(part)
        if then == "end":
            await reply.end_chunks()
        else:
            reply.close()

    return script


def first_bytes(gateway: RunningGateway, mark: bytes, within_s: float) -> bytes:
    """What the client has when *mark* is there; it leaves then."""
    with gateway.connect() as connection:
        connection.settimeout(within_s)
        connection.sendall(post_bytes(json.dumps(asked(stream=True)).encode(), "/v1/responses"))
        data = b""
        while mark not in data:
            piece = connection.recv(65536)
            assert piece, data
            data += piece
        return data


def test_a_thinking_model_that_says_keepalive_may_think_longer_than_a_first_token_takes(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    *before, final = whole_stream(["a"])
    parts = [opening(), [KEEPALIVE], [KEEPALIVE], [KEEPALIVE], [*before[len(opening()) :], final]]
    upstream.default = in_parts(*parts, pause_s=THOUGHT_S)
    answer = ask(gateway, stream=True)
    trace = gateway.trace()

    assert answer.content == b"".join(numbered([each for part in parts for each in part]))
    assert (trace.outcome, len(trace.attempts)) == ("ok", 1)
    assert trace.ttft_ms is not None
    assert trace.ttft_ms > 3 * THOUGHT_S * 1000  # the first token, and not the first event


def test_a_model_that_thinks_in_silence_runs_into_the_first_token_deadline(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = streams_response(opening(), then="hang")
    answer = ask(gateway, stream=True)

    assert answer.status_code == 504
    assert gateway.trace().attempts[0].error == "first_token_timeout"


def test_keepalive_lets_the_opening_pass(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams_response([*opening(), KEEPALIVE], then="hang")
    seen = first_bytes(gateway, b"keepalive", within_s=1)

    assert b"response.created" in seen


def test_what_has_passed_is_not_begun_again(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = in_parts([*opening(), KEEPALIVE], [], pause_s=0.05, then="close")
    answer = ask(gateway, stream=True)
    trace = gateway.trace()

    assert b"stream_truncated" in answer.content
    assert (trace.outcome, trace.ttft_ms) == ("truncated", None)
    assert len(upstream.received) == 1


def test_a_response_in_the_background_passes_at_once_and_is_begun_once(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    upstream.default = in_parts([created(background=True)], [], pause_s=0.05, then="close")
    answer = ask(gateway, stream=True, background=True)

    assert answer.content.startswith(numbered([created(background=True)])[0])
    assert gateway.trace().outcome == "truncated"
    assert len(upstream.received) == 1

    upstream.default = streams_response([created(background=True)], then="hang")
    assert b"resp_1" in first_bytes(gateway, b"response.created", within_s=1)


@pytest.mark.parametrize(
    "works", [SEARCHING, THOUGHT, item_added(), KEEPALIVE], ids=lambda each: each["type"]
)
def test_a_tool_or_a_thought_may_take_as_long_as_a_first_token(
    gateway: RunningGateway, upstream: ScriptedUpstream, works: dict[str, Any]
):
    parts = [[*opening(), text_delta("a"), works], [text_delta("b"), ended()]]
    upstream.default = in_parts(*parts, pause_s=THOUGHT_S)
    answer = ask(gateway, stream=True)

    assert answer.content == b"".join(numbered([each for part in parts for each in part]))
    assert gateway.trace().outcome == "ok"


def test_a_text_that_stalls_is_cut(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = in_parts([*opening(), text_delta("a")], [text_delta("b"), ended()], pause_s=THOUGHT_S)
    started = time.monotonic()
    answer = ask(gateway, stream=True)

    assert b"idle_timeout" in answer.content
    assert gateway.trace().outcome == "truncated"
    assert time.monotonic() - started < FIRST_TOKEN_S


def test_a_tool_that_never_ends_is_cut(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = streams_response([*opening(), SEARCHING], then="hang")
    answer = ask(gateway, stream=True)

    assert b"idle_timeout" in answer.content
    assert FIRST_TOKEN_S * 1000 <= gateway.trace().latency_ms < (FIRST_TOKEN_S + 1) * 1000


@pytest.mark.parametrize("size", [1, 1_000])
def test_an_opening_beyond_the_bound_passes_without_content(
    gateway: RunningGateway, upstream: ScriptedUpstream, size: int
):
    """The opening echoes the instructions, twice."""
    instructions = "x" * (relay_stream.MAX_OPENING_BYTES * 2 * size // 1_000)
    events = [created(instructions=instructions), *whole_stream(["a"])[1:]]
    parts = [events[:1], events[1:]]
    upstream.default = in_parts(*parts, pause_s=0.1)

    assert ask(gateway, stream=True).content == b"".join(numbered(events))
    assert gateway.trace().outcome == "ok"

    upstream.default = in_parts(events[:1], [], pause_s=0.1, then="close")
    upstream.then(upstream.default)
    answer = ask(gateway, stream=True)
    assert (answer.status_code == 502) is (size == 1)
    assert (gateway.traces(2)[1].outcome == "truncated") is (size > 1)


def test_a_slow_event_of_many_pieces_is_not_an_idle_stream(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    """The final event holds the whole response, and may come in pieces for longer than the deadline."""
    final = {**ended(text="long " * 2_000), "sequence_number": len(opening()) + 1}
    before = b"".join(numbered([*opening(), text_delta("a")]))
    wire = named(final)
    step = len(wire) // 6

    async def script(received: Received, reply: Reply) -> None:
        await send_events(reply, [before], end=False)
        for at in range(0, len(wire), step):
            await reply.chunk(wire[at : at + step])
            await reply.pause(0.1)
        await reply.end_chunks()

    upstream.default = script
    assert ask(gateway, stream=True).content == before + wire
    assert gateway.trace().outcome == "ok"
