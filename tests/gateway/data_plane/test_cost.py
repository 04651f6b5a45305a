"""What a request cost is the sum of what its attempts cost, wherever it went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.traces.rows import RowBuilder
from gateway.traces.types import Trace
from tests.support.request_path import RunningGateway, chat, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream, answers, answers_status, completion

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


def test_a_machine_is_accounted_for_where_all_workers_find_it(upstream: ScriptedUpstream, tmp_path: Path):
    config = machine_with_fallback(upstream.base_url, upstream.base_url, [])
    with running_gateway(tmp_path, {**config, "listen": {"workers": 2}}) as gateway:
        asked(gateway)
        accounts = [file.read_bytes() for file in gateway.state.paths.machines.iterdir()]

    assert [any(account) for account in accounts] == [True]


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


def test_every_kind_of_tokens_costs_what_the_configuration_says(upstream: ScriptedUpstream, tmp_path: Path):
    usage = {
        "prompt_tokens": 100_000,
        "completion_tokens": 10_000,
        "total_tokens": 110_000,
        "prompt_tokens_details": {
            "cached_tokens": 50_000,
            "cache_write_tokens": 20_000,
            "audio_tokens": 10_000,
        },
        "completion_tokens_details": {"reasoning_tokens": 5_000, "audio_tokens": 2_000},
    }
    upstream.default = answers(usage=usage)
    price = {"input": 1, "cached_input": 0.1, "cache_write": 1.25, "audio_input": 10}
    price |= {"output": 4, "reasoning": 3, "audio_output": 20}
    config = config_for(upstream.base_url, prices=[{"model": "served-model", **price}])
    with running_gateway(tmp_path, config) as gateway:
        row = asked(gateway)

    read = 20_000 * 1 + 50_000 * 0.1 + 20_000 * 1.25 + 10_000 * 10
    written = 3_000 * 4 + 5_000 * 3 + 2_000 * 20
    assert row.cost_usd == pytest.approx((read + written) / 1e6)


def test_a_model_that_has_no_price_has_no_cost(upstream: ScriptedUpstream, tmp_path: Path):
    config = config_for(upstream.base_url, prices=[{"model": "another-model", "input": 1, "output": 2}])
    with running_gateway(tmp_path, config) as gateway:
        row = asked(gateway)

    assert (row.tokens_in, row.tokens_out) == (TOKENS["prompt_tokens"], TOKENS["completion_tokens"])
    assert row.cost_usd is None


def test_a_fallback_without_a_price_leaves_the_cost_unknown(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = answers_status(500)
    with ScriptedUpstream() as hosted:
        config = machine_with_fallback(upstream.base_url, hosted.base_url, [])
        with running_gateway(tmp_path, config) as gateway:
            row = asked(gateway)

    assert row.upstream == "hosted"
    assert row.tokens_out is not None
    assert row.cost_usd is None
