"""What one answer cost, in USD. Pure; what is unknown makes the cost unknown, never zero."""

from __future__ import annotations

from gateway.traces.types import PriceTerms
from gateway.traces.usage import Usage

_PER_MILLION = 1_000_000


def cost_usd(price: PriceTerms | None, usage: Usage, machine_cost_usd: float | None) -> float | None:
    """The cost of *usage* at *price*; a machine paid by the hour overrides it with its share of time.

    An upstream that discounts cached tokens reports them: where it reports none, all are priced in full.
    """
    if machine_cost_usd is not None:
        return machine_cost_usd
    if price is None or usage.tokens_in is None or usage.tokens_out is None:
        return None
    cached = usage.tokens_cached or 0
    cached_price = price.input if price.cached_input is None else price.cached_input
    total = (usage.tokens_in - cached) * price.input + cached * cached_price + usage.tokens_out * price.output
    return total / _PER_MILLION
