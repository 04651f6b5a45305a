"""The official client on what is the gateway's own: models, headers, traces."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.traces.types import PriceTerms
from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def clients(gateway: RunningGateway, upstream: ScriptedUpstream) -> list[openai.OpenAI]:
    return [
        openai.OpenAI(base_url=url, api_key="client-key", max_retries=0)
        for url in (gateway.base_url, upstream.base_url)
    ]


def test_models_lists_the_routes_and_what_may_be_pinned(gateway: RunningGateway, upstream: ScriptedUpstream):
    client = clients(gateway, upstream)[0]

    assert [model.id for model in client.models.list()] == ["bot", "bot@stable"]
    assert [client.models.retrieve(name).id for name in ("bot", "bot@stable")] == ["bot", "bot@stable"]
    assert client.models.retrieve("bot").owned_by == "tracetune"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_model_of_any_name_is_found_and_pinned(upstream: ScriptedUpstream, tmp_path):
    config = config_for(upstream.base_url)
    config["routes"][0]["model"] = name = "team/bot é"
    with running_gateway(tmp_path, config) as gateway:
        client = clients(gateway, upstream)[0]
        for model in (name, f"{name}@stable"):
            assert client.models.retrieve(model).id == model
            assert client.chat.completions.create(model=model, messages=MESSAGES).id

    assert {received.json()["model"] for received in upstream.received} == {"served-model"}


def test_the_trace_says_what_happened(upstream: ScriptedUpstream, tmp_path):
    prices = [{"model": "served-model", "input": 1, "output": 2, "cached_input": 0.5}]
    with running_gateway(tmp_path, config_for(upstream.base_url, prices=prices)) as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0)
        raw = client.chat.completions.with_raw_response.create(
            model="bot",
            messages=MESSAGES,
            safety_identifier="ada",
            metadata={"session_id": "s1"},
            extra_headers={"x-tracetune-tag-team": "blue", "traceparent": "00-ab-cd-01"},
        )
        trace = gateway.trace()

    assert raw.headers["x-tracetune-trace-id"] == trace.trace_id
    assert (raw.headers["x-tracetune-route"], raw.headers["x-tracetune-variant"]) == ("bot", "stable")
    assert (trace.route, trace.variant, trace.propensity) == ("bot", "stable", 1.0)
    assert (trace.session, trace.subject, trace.tags) == ("s1", "ada", {"team": "blue"})
    assert (trace.upstream, trace.model, trace.status, trace.outcome) == ("up", "served-model", 200, "ok")
    assert trace.price == PriceTerms(input=1, output=2, cached_input=0.5)
    assert trace.table_hash == gateway.state.live.table.hash
    assert trace.traceparent == "00-ab-cd-01"
    assert [(attempt.status, attempt.error) for attempt in trace.attempts] == [(200, None)]
    assert trace.latency_ms >= trace.attempts[0].ended_ms > trace.attempts[0].started_ms >= 0
    assert upstream.received[0].header("traceparent") == "00-ab-cd-01"
