"""Tokens are read in every dialect and add up, and a cost is known only when everything it needs is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces.assembling.assemble import assemble
from gateway.traces.assembling.token_parts import InputTokens, OutputTokens
from gateway.traces.assembling.usage import MAX_TOKENS, Usage, finish_reason, read_usage, usage_of
from gateway.traces.cost import cost_usd, rates
from gateway.traces.types import NO_TOKEN_PRICE, PriceTerms

# What upstreams really send, in their words; numbers are ours. `reported` is how many tokens that is.
SHAPES = {
    f"{path.stem}: {shape['name']}": shape
    for path in sorted(Path(__file__).with_name("usage_shapes").glob("*.json"))
    for shape in json.loads(path.read_text(encoding="utf-8"))
}


def usage_of_shape(shape: dict[str, Any]) -> Usage:
    if "events" not in shape:
        return read_usage(shape["response"])
    lines = [f"data: {json.dumps(event)}\n\n" for event in shape["events"]]
    return read_usage(assemble("".join([*lines, "data: [DONE]\n\n"]).encode()))


def parts_of(usage: Usage) -> list[int]:
    sides = [side for side in (usage.input, usage.output) if side is not None]
    return [part for side in sides for part in msgspec.structs.astuple(side) if part is not None]


def test_every_common_dialect_has_its_shapes() -> None:
    dialects = {name.partition(":")[0] for name in SHAPES}

    assert dialects >= {"openai", "azure", "vllm", "llama_cpp", "mistral", "openrouter", "deepseek"}


@pytest.mark.parametrize("name", SHAPES)
def test_the_parts_are_what_the_upstream_says_and_add_up_to_what_it_reports(name: str) -> None:
    shape = SHAPES[name]
    usage = usage_of_shape(shape)

    assert usage.input == (None if shape["input"] is None else InputTokens(**shape["input"]))
    assert usage.output == (None if shape["output"] is None else OutputTokens(**shape["output"]))
    assert (sum(parts_of(usage)) or None) == shape["reported"]
    assert sum(parts_of(usage)) == (usage.tokens_in or 0) + (usage.tokens_out or 0)
    assert usage.reported_cost_usd == pytest.approx(shape.get("reported_cost_usd"))


NUMBER = st.one_of(
    st.integers(-5, 50), st.integers(0, 1 << 70), st.floats(), st.sampled_from([None, True, "7", {}, []])
)
DETAILS = st.dictionaries(
    st.sampled_from(
        ["cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens", "cached_tokens_details"]
    ),
    st.one_of(NUMBER, st.dictionaries(st.just("audio_tokens"), NUMBER)),
)
USAGE = st.dictionaries(
    st.sampled_from(
        [
            *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"),
            *("prompt_cache_hit_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
            *("reasoning_tokens", "prompt_audio_seconds", "cost", "is_byok", "num_cached_tokens"),
        ]
    ),
    NUMBER,
)
SIDES = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "cost_details")
OBJECT = st.builds(
    lambda usage, details: {**usage, **details},
    USAGE,
    st.dictionaries(st.sampled_from(SIDES), st.one_of(st.none(), DETAILS)),
)


@given(OBJECT)
def test_parts_add_up_and_the_whole_is_what_was_reported_whatever_an_upstream_reports(
    raw: dict[str, Any],
) -> None:
    usage = usage_of(raw)

    assert all(0 <= part <= MAX_TOKENS for part in parts_of(usage))
    for side in (usage.tokens_in, usage.tokens_out):
        assert side is None or 0 <= side <= MAX_TOKENS, "as much as the store's columns hold"
    assert sum(parts_of(usage)) == (usage.tokens_in or 0) + (usage.tokens_out or 0)
    assert usage.tokens_cached is None or usage.tokens_cached <= (usage.tokens_in or 0)
    assert usage.reported_cost_usd is None or usage.reported_cost_usd > 0


COUNT = st.integers(0, 10_000)


@given(COUNT, COUNT, st.lists(st.one_of(st.none(), COUNT), min_size=5, max_size=5))
def test_details_never_change_how_many_tokens_a_side_has(
    tokens_in: int, tokens_out: int, details: list[int | None]
) -> None:
    names = ("cached_tokens", "cache_write_tokens", "audio_tokens")
    raw = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": dict(zip(names, details[:3], strict=True)),
        "completion_tokens_details": {"reasoning_tokens": details[3], "audio_tokens": details[4]},
    }
    usage = usage_of(raw)

    assert (usage.tokens_in, usage.tokens_out) == (tokens_in, tokens_out)


@pytest.mark.parametrize(
    "spelt",
    [
        {"prompt_tokens_details": {"cached_tokens": 256}},
        {"input_tokens_details": {"cached_tokens": 256}},
        {"prompt_token_details": {"cached_tokens": 256}},
        {"input_token_details": {"cached_tokens": 256}},
        {"num_cached_tokens": 256},
        {"prompt_cache_hit_tokens": 256},
        {"cached_tokens": 256},
    ],
    ids=lambda spelt: next(iter(spelt)),
)
def test_every_spelling_of_cached_tokens_is_read_by_itself(spelt: dict[str, Any]) -> None:
    usage = usage_of({"prompt_tokens": 279, "completion_tokens": 42, "total_tokens": 321, **spelt})

    assert (usage.tokens_in, usage.tokens_cached, usage.tokens_out) == (279, 256, 42)


@pytest.mark.parametrize(
    "kind", ["completion_tokens_details", "output_tokens_details", "output_token_details"]
)
def test_every_spelling_of_what_was_written_is_read_by_itself(kind: str) -> None:
    details = {"reasoning_tokens": 30, "audio_tokens": 5}
    usage = usage_of({"prompt_tokens": 9, "completion_tokens": 42, "total_tokens": 51, kind: details})

    assert usage.output == OutputTokens(text=7, reasoning=30, audio=5)


def test_the_usage_object_is_kept_as_received() -> None:
    raw = {"prompt_tokens": 1, "completion_tokens": 2, "queue_time": 0.1, "cost": 0.0012}

    assert read_usage({"usage": raw}).raw == raw


PRICE = PriceTerms(
    input=1, cached_input=0.1, cache_write=1.25, audio_input=10, output=4, reasoning=3, audio_output=20
)
ALL_KINDS = Usage(
    input=InputTokens(text=100, cached=1_000, cache_write=10, audio=7),
    output=OutputTokens(text=50, reasoning=400, audio=9),
)


def of(tokens_in: int | None, tokens_out: int | None) -> Usage:
    return Usage(
        input=None if tokens_in is None else InputTokens.of(tokens_in),
        output=None if tokens_out is None else OutputTokens.of(tokens_out),
    )


def test_every_kind_of_tokens_has_its_own_price() -> None:
    by_hand = 100 * 1 + 1_000 * 0.1 + 10 * 1.25 + 7 * 10 + 50 * 4 + 400 * 3 + 9 * 20

    assert cost_usd(PRICE, ALL_KINDS, None) == pytest.approx(by_hand / 1e6)


def test_a_kind_without_a_price_of_its_own_costs_what_text_does() -> None:
    plain = PriceTerms(input=1, output=4)

    assert set(rates(plain)[:4]) == {1}
    assert set(rates(plain)[4:]) == {4}
    assert cost_usd(plain, ALL_KINDS, None) == pytest.approx((1_117 * 1 + 459 * 4) / 1e6)
    assert cost_usd(plain, ALL_KINDS, None) == cost_usd(plain, of(1_117, 459), None)


def test_an_unknown_price_or_count_makes_an_unknown_cost() -> None:
    assert cost_usd(None, ALL_KINDS, None) is None
    assert cost_usd(PRICE, of(1, None), None) is None
    assert cost_usd(PRICE, of(None, 1), None) is None
    assert cost_usd(PRICE, of(0, 0), None) == 0


def test_nothing_times_an_unknown_count_is_nothing() -> None:
    assert cost_usd(PriceTerms(input=0.02, output=0), of(100, None), None) == pytest.approx(2e-6)
    assert cost_usd(PriceTerms(input=0, output=0), Usage(), None) == 0


def test_a_machine_is_paid_for_its_time_and_not_for_tokens() -> None:
    assert cost_usd(NO_TOKEN_PRICE, Usage(), 0.002) == 0.002
    assert cost_usd(NO_TOKEN_PRICE, ALL_KINDS, 0.002) == 0.002


def test_a_request_that_went_on_from_a_machine_costs_both_and_nothing_known_hides_what_is_not() -> None:
    tokens = cost_usd(PRICE, ALL_KINDS, None)

    assert tokens is not None
    assert cost_usd(PRICE, ALL_KINDS, 0.5) == pytest.approx(tokens + 0.5)
    assert cost_usd(None, ALL_KINDS, 0.5) is None
    assert cost_usd(PRICE, of(1, None), 0.5) is None


def test_what_the_upstream_charged_counts_where_no_price_is_configured() -> None:
    charged = usage_of({"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.25})

    assert cost_usd(None, charged, None) == 0.25
    assert cost_usd(None, charged, 0.5) == 0.75
    assert cost_usd(PRICE, charged, None) == pytest.approx(5e-6)


@pytest.mark.parametrize("cost", [0, 0.0, -1, True, "0.1", None, float("nan"), float("inf"), 10**400, {}])
def test_a_reported_cost_that_says_nothing_is_unknown(cost: Any) -> None:
    assert cost_usd(None, usage_of({"prompt_tokens": 1, "completion_tokens": 1, "cost": cost}), None) is None


@given(OBJECT, st.one_of(st.none(), st.floats(0, 10)))
def test_a_cost_is_known_or_not_and_never_negative(raw: dict[str, Any], machine: float | None) -> None:
    usage = usage_of(raw)
    cost = cost_usd(PRICE, usage, machine)

    assert (cost is None) == (usage.input is None or usage.output is None)
    assert cost is None or cost >= (machine or 0.0)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_caching_never_makes_an_answer_dearer_where_it_is_discounted(
    total: int, cached: int, out: int
) -> None:
    full = cost_usd(PRICE, of(total, out), None)
    discounted = cost_usd(
        PRICE, Usage(input=InputTokens.of(total, cached), output=OutputTokens.of(out)), None
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


counts = st.none() | st.integers(-1, 30) | st.booleans() | st.floats(0, 9) | st.just(MAX_TOKENS)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": counts,
            "completion_tokens": counts,
            "total_tokens": counts,
            "prompt_tokens_details": st.none()
            | st.dictionaries(
                st.sampled_from(["cached_tokens", "audio_tokens", "cache_write_tokens"]), counts
            ),
            "completion_tokens_details": st.none()
            | st.dictionaries(
                st.sampled_from(["reasoning_tokens", "thinking_tokens", "audio_tokens"]), counts
            ),
        },
    ),
    st.booleans(),
)
def test_usage_of_openais_fields_alone_is_read_as_it_is_among_others(
    raw: dict[str, Any], adds_up: bool
) -> None:
    if adds_up and all(type(raw.get(name)) is int for name in ("prompt_tokens", "completion_tokens")):
        raw = {**raw, "total_tokens": raw["prompt_tokens"] + raw["completion_tokens"]}
    alone, among_others = usage_of(raw), usage_of({**raw, "another": "field"})
    assert (alone.input, alone.output) == (among_others.input, among_others.output)
