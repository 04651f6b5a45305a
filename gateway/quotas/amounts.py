"""What is limited and counted, in whole numbers: requests, tokens, and USD as nano-dollars.

Whole numbers add up exactly in any order: the sum of what was settled is what is reported. A price of
0.0075 USD per million tokens is 7.5 nano-dollars a token, so that rounding a request hides nothing.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Dimension = Literal["requests", "tokens", "usd"]
DIMENSIONS: tuple[Dimension, ...] = ("requests", "tokens", "usd")
USD = 2  # its place in DIMENSIONS

NANO = 1_000_000_000  # nano-dollars in a dollar
# Of one request, in any dimension (of USD: 10,000 dollars). Sums of 900,000 such requests still fit 63 bits.
MOST_OF_ONE_REQUEST = 10**13
_MOST_USD = MOST_OF_ONE_REQUEST / NANO


class Amounts(NamedTuple):
    """What one request may use, or has used."""

    requests: int
    tokens: int
    nano_usd: int


NOTHING = Amounts(0, 0, 0)


def bounded(amount: int) -> int:
    """*amount* within what one request can count for: never negative."""
    return min(max(amount, 0), MOST_OF_ONE_REQUEST)


def nano_usd(usd: float) -> int:
    """*usd*, which is finite, in nano-dollars: rounded up, so that a cost is never nothing."""
    return bounded(math.ceil(round(min(usd, _MOST_USD) * NANO, 3)))


def in_units(dimension: int, amount: int) -> float:
    """*amount* of DIMENSIONS[*dimension*] as people write it."""
    return amount / NANO if dimension == USD else amount
