"""What a request cost is the sum of what its attempts cost, wherever it went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.traces.rows import RowBuilder
from gateway.traces.types import Trace
from tests.support.request_path import RunningGateway, chat, running_gateway
from tests.support.upstream import ScriptedUpstream, answers_status, completion

PRICES = [{"model": "big", "input": 1, "output": 2}]
TOKENS = completion()["usage"]
TOKENS_USD = (TOKENS["prompt_tokens"] * 1 + TOKENS["completion_tokens"] * 2) / 1e6
PER_HOUR = 3600  # a second on the machine costs a dollar


def machine_with_fallback(machine: str, fallback: str, prices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "upstreams": [
            {"name": "local", "base_url": machine, "price_per_hour": PER_HOUR, "retries": {"max": 0}},
            {"name": "hosted", "base_url": fallback, "prices": prices},
        ],
        "routes": [
            {
                "model": "bot",
                "variants": [{"name": "stable", "upstream": "local", "snapshot": "bot-7f3a"}],
                "fallbacks": [{"upstream": "hosted", "model": "big"}],
            }
        ],
    }


def asked(gateway: RunningGateway) -> Trace:
    """The row of one request."""
    httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=10).raise_for_status()
    row = RowBuilder(None).build(gateway.records()[0]).values
    assert isinstance(row, Trace)
    return row


def test_an_answer_of_a_machine_costs_its_share_of_the_time_and_nothing_for_tokens(
    upstream: ScriptedUpstream, tmp_path: Path
):
    with running_gateway(
        tmp_path, machine_with_fallback(upstream.base_url, upstream.base_url, [])
    ) as gateway:
        row = asked(gateway)

    assert row.tokens_out == TOKENS["completion_tokens"]
    assert row.cost_usd is not None
    assert 0 < row.cost_usd <= row.latency_ms / 1000


def test_a_request_that_a_fallback_had_to_answer_costs_the_machine_and_the_tokens(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = answers_status(500)
    with ScriptedUpstream() as hosted:
        config = machine_with_fallback(upstream.base_url, hosted.base_url, PRICES)
        with running_gateway(tmp_path, config) as gateway:
            row = asked(gateway)
            trace = gateway.trace()

    assert trace.machine_cost_usd is not None
    assert row.cost_usd == pytest.approx(trace.machine_cost_usd + TOKENS_USD)


def test_a_fallback_without_a_price_leaves_the_cost_unknown(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(500)
    with ScriptedUpstream() as hosted:
        config = machine_with_fallback(upstream.base_url, hosted.base_url, [])
        with running_gateway(tmp_path, config) as gateway:
            row = asked(gateway)

    assert row.upstream == "hosted"
    assert row.tokens_out is not None
    assert row.cost_usd is None
