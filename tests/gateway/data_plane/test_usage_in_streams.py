"""An upstream that refuses `stream_options` is not sent any, and what its streams use is unknown, not nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.traces.rows import RowBuilder
from tests.support.request_path import UPSTREAM_DEFAULTS, chat, config_for, running_gateway
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    ScriptedUpstream,
    answers,
    answers_status,
    stream_events,
    streams,
    streams_events,
)

PRICES = [{"model": "served-model", "input": 1, "output": 2}]
ASKED = {"include_usage": True}


async def refuses_options(received: Received, reply: Reply) -> None:
    """What an upstream does for which the setting is made."""
    if "stream_options" in received.json():
        await answers_status(400)(received, reply)
    else:
        await streams(["a"])(received, reply)


def ask(base_url: str, path: str = "/chat/completions", **more: Any) -> httpx.Response:
    body = json.dumps({**chat(stream=True, **more), "prompt": "hi"}).encode()
    headers = {"content-type": "application/json"}
    return httpx.post(f"{base_url}{path}", content=body, headers=headers, timeout=10)


@pytest.mark.parametrize("asks", [True, False])
def test_an_upstream_is_asked_for_usage_unless_it_refuses_to_be(
    upstream: ScriptedUpstream, tmp_path: Path, asks: bool
):
    upstream.default = refuses_options
    with running_gateway(tmp_path, config_for(upstream.base_url, usage_in_streams=asks)) as gateway:
        answer = ask(gateway.base_url)

    assert ("stream_options" in upstream.received[0].json()) is asks
    assert answer.status_code == (400 if asks else 200)


def test_its_streams_have_unknown_tokens_and_an_unknown_cost_and_its_whole_answers_known_ones(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = refuses_options
    config = config_for(upstream.base_url, usage_in_streams=False, prices=PRICES)
    with running_gateway(tmp_path, config) as gateway:
        assert ask(gateway.base_url).content.endswith(DONE)
        streamed = RowBuilder(None).build(gateway.records()[0]).values
        upstream.default = answers()
        httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=10).raise_for_status()
        whole = RowBuilder(None).build(gateway.records(2)[1]).values

    assert (streamed.tokens_in, streamed.tokens_out, streamed.cost_usd) == (None, None, None)
    assert None not in (whole.tokens_in, whole.tokens_out, whole.cost_usd)


def test_what_it_says_of_its_usage_unasked_reaches_the_client_and_is_counted(
    upstream: ScriptedUpstream, tmp_path: Path
):
    events = stream_events(["a"], usage=True)
    upstream.default = streams_events(events)
    with running_gateway(tmp_path, config_for(upstream.base_url, usage_in_streams=False)) as gateway:
        answer = ask(gateway.base_url)
        row = RowBuilder(None).build(gateway.records()[0]).values

    assert answer.content == b"".join(events)
    assert (row.tokens_in, row.tokens_out) == (11, 2)


def test_what_a_client_asks_for_itself_goes_there_as_it_is(upstream: ScriptedUpstream, tmp_path: Path):
    with running_gateway(tmp_path, config_for(upstream.base_url, usage_in_streams=False)) as gateway:
        ask(gateway.base_url, stream_options=ASKED)

    assert upstream.received[0].json()["stream_options"] == ASKED


@pytest.mark.parametrize("asked_first", [True, False])
def test_of_two_that_are_asked_in_turn_each_is_asked_as_it_wants(
    upstream: ScriptedUpstream, tmp_path: Path, asked_first: bool
):
    upstream.default = answers_status(500)
    events = stream_events(["a"], usage=True)
    with ScriptedUpstream() as other:
        other.default = streams_events(events)
        config = config_for(upstream.base_url, usage_in_streams=asked_first, retries={"max": 0})
        last = {"name": "other", **UPSTREAM_DEFAULTS, "base_url": other.base_url}
        config["upstreams"].append({**last, "usage_in_streams": not asked_first})
        config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "served-model"}]
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway.base_url)

        asked = [each.received[0].json().get("stream_options") for each in (upstream, other)]
        assert asked == ([ASKED, None] if asked_first else [None, ASKED])
    assert answer.content == b"".join(events if asked_first else [*events[:-2], DONE])
