"""What a request may use, before it is sent. Pure, and an estimate: what it did use replaces it afterwards.

It is made from the size of the body alone, because reading prompts is not the data plane's work. Pictures and
sound inside a body count by their size too, which is more than models charge for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gateway.traces.cost import rates
from gateway.traces.types import PriceTerms

BYTES_PER_TOKEN = 4  # of a JSON body; English has a little more, other scripts have less
# Of each answer where the request names no bound. What a chat answers is rarely longer; one that is, is
# settled in full, and the next request meets it.
DEFAULT_OUTPUT_TOKENS = 1024

_PER_MILLION = 1_000_000


class Estimate(NamedTuple):
    """Tokens that a request may read and write."""

    tokens_in: int
    tokens_out: int

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


def estimate_tokens(body_bytes: int, max_output_tokens: int | None, choices: int = 1) -> Estimate:
    """The tokens of a request of *body_bytes* that asks for *choices* answers (`n`, or `best_of`).

    *max_output_tokens* is what the request calls `max_tokens`, `max_completion_tokens` or
    `max_output_tokens`: 0 for an endpoint that writes nothing, None for DEFAULT_OUTPUT_TOKENS.
    """
    each = DEFAULT_OUTPUT_TOKENS if max_output_tokens is None else max(0, max_output_tokens)
    return Estimate(-(-body_bytes // BYTES_PER_TOKEN), each * max(1, choices))


def estimate_usd(prices: Iterable[PriceTerms | None], estimate: Estimate) -> float | None:
    """What *estimate* may cost at the dearest of *prices*, every token of the dearest kind.

    *prices* are those of every target of the request, its fallbacks among them. None where one is unknown.
    """
    dearest = 0.0
    for price in prices:
        if price is None:
            return None
        rate = rates(price)
        read = max(rate.text_in, rate.cached, rate.cache_write, rate.audio_in)
        written = max(rate.text_out, rate.reasoning, rate.audio_out)
        dearest = max(dearest, estimate.tokens_in * read + estimate.tokens_out * written)
    return dearest / _PER_MILLION
