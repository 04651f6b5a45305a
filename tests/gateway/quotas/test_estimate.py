"""An estimate covers what was asked for, and what cannot be priced is unknown, never free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quotas import Estimate, estimate_tokens, estimate_usd
from gateway.quotas.amounts import MOST_OF_ONE_REQUEST, NANO, nano_usd
from gateway.quotas.estimate import BYTES_PER_TOKEN, DEFAULT_OUTPUT_TOKENS
from gateway.traces.types import PriceTerms

PRICE = PriceTerms(input=1.0, output=4.0)
sizes = st.integers(min_value=0, max_value=1 << 30)
bounds = st.none() | st.integers(min_value=-5, max_value=1 << 20)


@pytest.mark.parametrize(
    ("body_bytes", "max_tokens", "choices", "expected"),
    [
        (0, 10, 1, Estimate(0, 10)),
        (1, 10, 1, Estimate(1, 10)),
        (4 * BYTES_PER_TOKEN, 10, 3, Estimate(4, 30)),
        (8, None, 2, Estimate(2, 2 * DEFAULT_OUTPUT_TOKENS)),
        (8, 0, 1, Estimate(2, 0)),  # embeddings write nothing
        (8, -3, 0, Estimate(2, 0)),  # nonsense is the upstream's to refuse
    ],
)
def test_tokens_are_estimated_from_size_bound_and_choices(
    body_bytes: int, max_tokens: int | None, choices: int, expected: Estimate
) -> None:
    assert expected == estimate_tokens(body_bytes, max_tokens, choices)


@given(sizes, bounds, st.integers(min_value=1, max_value=128))
def test_more_of_anything_never_lowers_an_estimate(size: int, bound: int | None, choices: int) -> None:
    estimate = estimate_tokens(size, bound, choices)

    assert estimate.tokens >= 0
    assert estimate_tokens(size + 1, bound, choices).tokens >= estimate.tokens
    assert estimate_tokens(size, bound, choices + 1).tokens >= estimate.tokens


def test_usd_is_what_the_tokens_cost_with_nothing_cached_for_less() -> None:
    cached = PriceTerms(input=1.0, output=4.0, cached_input=0.1)

    assert estimate_usd([PRICE], Estimate(1_000_000, 500_000)) == 3.0
    assert estimate_usd([cached], Estimate(1_000_000, 500_000)) == 3.0


def test_the_dearest_target_counts_and_one_without_a_price_makes_it_unknown() -> None:
    estimate = Estimate(1_000_000, 0)

    assert estimate_usd([PRICE, PriceTerms(input=7.0, output=0.0)], estimate) == 7.0
    assert estimate_usd([PRICE, None], estimate) is None


@given(st.floats(min_value=0, max_value=1e300))
def test_a_cost_is_rounded_up_by_less_than_a_nano_dollar_and_bounded(usd: float) -> None:
    nano = nano_usd(usd)

    assert 0 <= nano <= MOST_OF_ONE_REQUEST
    if usd * NANO < MOST_OF_ONE_REQUEST:
        assert -0.001 <= nano - usd * NANO < 1.001
