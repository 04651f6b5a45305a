"""Tokens are read in every dialect, and a cost is known only when everything it needs is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.cost import cost_usd
from gateway.traces.types import PriceTerms
from gateway.traces.usage import Usage, finish_reason, read_usage

OPENAI = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ({"usage": OPENAI}, (100, 64, 20)),
        ({"usage": {**OPENAI, "prompt_tokens_details": None}}, (100, None, 20)),  # vLLM
        ({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, (8, None, 0)),  # embeddings
        (
            {"usage": {**OPENAI, "prompt_token_details": {"cached_tokens": 3}, "prompt_tokens_details": {}}},
            (100, 3, 20),
        ),
        (
            {
                "usage": {
                    "prompt_tokens": 10,
                    "completion_tokens": 2,
                    "prompt_cache_hit_tokens": 4,
                    "prompt_cache_miss_tokens": 6,
                }
            },
            (10, 4, 2),
        ),
        ({"timings": {"prompt_n": 5, "cache_n": 7, "predicted_n": 3}}, (12, 7, 3)),  # llama.cpp
        ({"x_groq": {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}}, (1, None, 2)),
        (
            {
                "usage": {
                    "input_tokens": 10,
                    "output_tokens": 5,
                    "cache_read_input_tokens": 90,
                    "cache_creation_input_tokens": 7,
                }
            },
            (107, 90, 5),
        ),
        (
            {"usage": {"prompt_tokens": "many", "completion_tokens": -1, "total_tokens": True}},
            (None, None, None),
        ),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 9}}, (5, None, 1)),
        ({"usage": None}, (None, None, None)),
        ({"choices": []}, (None, None, None)),
        ("no json", (None, None, None)),
    ],
)
def test_usage_is_read_in_every_dialect_and_the_unknown_is_none(
    response: Any, expected: tuple[int | None, int | None, int | None]
) -> None:
    usage = read_usage(response)
    assert (usage.tokens_in, usage.tokens_cached, usage.tokens_out) == expected


def test_the_usage_object_is_kept_as_received() -> None:
    assert read_usage({"usage": {**OPENAI, "queue_time": 0.1}}).raw == {**OPENAI, "queue_time": 0.1}


PRICE = PriceTerms(input=0.15, cached_input=0.075, output=0.60)


def test_cached_tokens_are_priced_apart() -> None:
    usage = read_usage({"usage": OPENAI})
    assert cost_usd(PRICE, usage, None) == pytest.approx((36 * 0.15 + 64 * 0.075 + 20 * 0.60) / 1e6)
    without = PriceTerms(input=0.15, output=0.60)
    assert cost_usd(without, usage, None) == pytest.approx((100 * 0.15 + 20 * 0.60) / 1e6)


def test_an_unknown_price_or_count_makes_an_unknown_cost() -> None:
    assert cost_usd(None, read_usage({"usage": OPENAI}), None) is None
    assert cost_usd(PRICE, Usage(tokens_in=1), None) is None
    assert cost_usd(PRICE, Usage(tokens_out=1), None) is None
    assert cost_usd(PRICE, Usage(tokens_in=1, tokens_out=1), None) is not None


def test_the_share_of_a_machine_overrides_prices_and_needs_no_tokens() -> None:
    assert cost_usd(PRICE, Usage(), 0.002) == 0.002
    assert cost_usd(None, read_usage({"usage": OPENAI}), 0.0) == 0.0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_cost_is_never_negative_and_caching_never_makes_it_dearer(
    total: int, cached: int, out: int
) -> None:
    full = cost_usd(PRICE, Usage(tokens_in=total, tokens_out=out), None)
    discounted = cost_usd(
        PRICE, Usage(tokens_in=total, tokens_cached=min(cached, total), tokens_out=out), None
    )
    assert full is not None
    assert discounted is not None
    assert 0 <= discounted <= full + 1e-12


def test_the_reason_an_answer_ended_comes_from_the_first_choice_that_has_one() -> None:
    assert finish_reason({"choices": [{"finish_reason": None}, {"finish_reason": "length"}]}) == "length"
    assert finish_reason({"choices": [{}]}) is None
    assert finish_reason({"object": "response", "incomplete_details": {"reason": "max_output_tokens"}}) == (
        "max_output_tokens"
    )
    assert finish_reason([1]) is None
