"""`/v1/responses` is routed, captured, counted and priced as chat is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.traces.rows import RowBuilder
from tests.support.request_path import RunningGateway, config_for, post_bytes, running_gateway
from tests.support.responses import (
    FAILED,
    ask,
    asked,
    numbered,
    responds,
    streams_response,
    typed,
    whole_stream,
)
from tests.support.upstream import ScriptedUpstream

WHOLE = whole_stream(["Hel", "lo"])


def test_a_response_is_captured_counted_and_priced(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = responds("hello")
    prices = [{"model": "served-model", "input": 1, "output": 2, "cached_input": 0.5}]
    with running_gateway(tmp_path, config_for(upstream.base_url, prices=prices)) as gateway:
        answer = ask(gateway, metadata={"session_id": "s1"}, user="ada")
        record = gateway.records()[0]
        row = RowBuilder(None).build(record).values

    assert answer.json()["output"][0]["content"][0]["text"] == "hello"
    assert upstream.received[0].target == "/v1/responses"
    assert upstream.received[0].json() == asked(
        metadata={"session_id": "s1"}, user="ada", model="served-model"
    )
    assert answer.headers["x-tracetune-variant"] == "stable"
    assert (row.endpoint, row.route, row.session, row.subject) == ("/v1/responses", "bot", "s1", "ada")
    assert (row.outcome, row.status, row.finish_reason) == ("ok", 200, "stop")
    assert (row.tokens_in, row.tokens_cached, row.tokens_out) == (11, 4, 2)
    assert row.cost_usd == pytest.approx((7 * 1 + 4 * 0.5 + 2 * 2) / 1e6)


@pytest.mark.parametrize("field", ["safety_identifier", "user"])
def test_the_subject_is_read_as_for_chat(gateway: RunningGateway, upstream: ScriptedUpstream, field: str):
    upstream.default = responds()
    ask(gateway, **{field: "ada"})

    assert gateway.trace().subject == "ada"


@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("gap_s", [0, 0.01])
def test_a_streamed_response_passes_byte_for_byte_and_is_stored_whole(
    gateway: RunningGateway, upstream: ScriptedUpstream, status: str, gap_s: float
):
    events = whole_stream(["Hel", "lo"], status)
    upstream.default = streams_response(events, gap_s=gap_s)
    answer = ask(gateway, stream=True)
    record = gateway.records()[0]
    row = RowBuilder(None).build(record).values

    assert answer.content == record.response == b"".join(numbered(events))
    assert "stream_options" not in upstream.received[0].json()
    assert json.loads(row.response) == events[-1]["response"]
    assert (row.outcome, row.stream, row.tokens_in, row.tokens_out) == ("ok", True, 11, 2)
    assert row.finish_reason == ("stop" if status == "completed" else "max_output_tokens")
    assert 0 < row.ttft_ms <= row.latency_ms


@pytest.mark.parametrize("then", ["end", "close", "reset", "hang"])
def test_a_response_is_whole_with_its_final_event(
    gateway: RunningGateway, upstream: ScriptedUpstream, then: str
):
    upstream.default = streams_response(WHOLE, then=then)
    answer = ask(gateway, stream=True)

    assert answer.content == b"".join(numbered(WHOLE))
    assert gateway.trace().outcome == "ok"


@pytest.mark.parametrize(
    "end", [WHOLE[-1], typed("response.failed", response=FAILED)], ids=["final", "failed"]
)
def test_the_trace_is_there_when_the_last_event_is(
    gateway: RunningGateway, upstream: ScriptedUpstream, end: dict[str, Any]
):
    upstream.default = streams_response([*WHOLE[:-1], end], gap_s=0.005)
    for count in range(1, 6):
        with gateway.connect() as connection:
            connection.sendall(post_bytes(json.dumps(asked(stream=True)).encode(), "/v1/responses"))
            data = b""
            while b"data: " + json.dumps({"type": end["type"]}).encode()[:-1] not in data:
                data += connection.recv(65536)

            assert len(gateway.traces(count, within_s=0)) == count


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"status": "queued", "background": True}, "queued"), ({"status": "incomplete"}, "incomplete")],
)
def test_a_response_in_the_background_and_one_that_was_cut_by_its_limit_are_answers(
    gateway: RunningGateway, upstream: ScriptedUpstream, fields: dict[str, Any], status: str
):
    upstream.default = responds(**fields)

    assert ask(gateway, background=True).json()["status"] == status
    assert gateway.trace().outcome == "ok"
