"""What an upstream asks for the tokens of its models."""

from __future__ import annotations

import msgspec

from gateway.config.types import Upstream
from gateway.traces.types import NO_TOKEN_PRICE, PriceTerms


class PriceList:
    """The prices of one upstream; where its machine is paid by the hour, tokens cost nothing beside that."""

    def __init__(self, upstream: Upstream) -> None:
        self._every = None if upstream.price_per_hour is None else NO_TOKEN_PRICE
        self._by_model = {
            price.model: msgspec.convert(price, PriceTerms, from_attributes=True) for price in upstream.prices
        }

    def of(self, model: str) -> PriceTerms | None:
        """The price of *model*; None where it is unknown."""
        return self._every or self._by_model.get(model)
