"""What one answer cost, in USD. Pure; what is unknown makes the cost unknown, never zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.traces.assembling.token_parts import InputTokens, OutputTokens
from gateway.traces.assembling.usage import Usage
from gateway.traces.types import Attempt, Outcome, PriceTerms

_PER_MILLION = 1_000_000
_ANSWERED = range(200, 300)


class Rates(NamedTuple):
    """USD per million tokens of each part of `InputTokens` and `OutputTokens`."""

    text_in: float
    cached: float
    cache_write: float
    audio_in: float
    text_out: float
    reasoning: float
    audio_out: float


def rates(price: PriceTerms) -> Rates:
    """The rate of every part: a part without a price of its own is text that is read, or written."""
    into, out = price.input, price.output
    return Rates(
        text_in=into,
        cached=into if price.cached_input is None else price.cached_input,
        cache_write=into if price.cache_write is None else price.cache_write,
        audio_in=into if price.audio_input is None else price.audio_input,
        text_out=out,
        reasoning=out if price.reasoning is None else price.reasoning,
        audio_out=out if price.audio_output is None else price.audio_output,
    )


def cost_usd(price: PriceTerms | None, usage: Usage, machine_cost_usd: float | None) -> float | None:
    """The cost of *usage* at *price*, and of the time on machines paid by the hour.

    Where no price is known, what the upstream itself says it charged (`Usage.reported_cost_usd`) stands in;
    a configured price outranks that. None where neither is known, or a price is and the tokens are not: a
    share of a machine alone is not the cost of a request that went on to an upstream without a price.
    """
    tokens = usage.reported_cost_usd if price is None else _tokens_usd(rates(price), usage)
    return None if tokens is None else tokens + (machine_cost_usd or 0.0)


def may_cost(attempts: Sequence[Attempt], outcome: Outcome) -> bool:
    """Whether an upstream has worked on a request, or may have when its client left.

    Attempts that failed cost nothing at token prices; those at a machine have a cost that is known.
    """
    answered = any(attempt.status in _ANSWERED for attempt in attempts)
    return answered or (outcome == "client_cancelled" and bool(attempts))


def _tokens_usd(rate: Rates, usage: Usage) -> float | None:
    read, written = _read_usd(rate, usage.input), _written_usd(rate, usage.output)
    return None if read is None or written is None else (read + written) / _PER_MILLION


def _read_usd(rate: Rates, tokens: InputTokens | None) -> float | None:
    if tokens is None:
        # However many there were, nothing times that is nothing.
        return None if rate.text_in or rate.cached or rate.cache_write or rate.audio_in else 0.0
    return (
        tokens.text * rate.text_in
        + (tokens.cached or 0) * rate.cached
        + (tokens.cache_write or 0) * rate.cache_write
        + (tokens.audio or 0) * rate.audio_in
    )


def _written_usd(rate: Rates, tokens: OutputTokens | None) -> float | None:
    if tokens is None:
        return None if rate.text_out or rate.reasoning or rate.audio_out else 0.0
    return (
        tokens.text * rate.text_out
        + (tokens.reasoning or 0) * rate.reasoning
        + (tokens.audio or 0) * rate.audio_out
    )
