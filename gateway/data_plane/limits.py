"""Reserves what a request may use, where its key has limits, before any upstream is asked."""

from __future__ import annotations

import time

from gateway.data_plane.capture import OpenTrace
from gateway.data_plane.limit_answers import refused
from gateway.data_plane.spending import asked_for
from gateway.quotas import Account, Refusal, estimate_tokens, estimate_usd
from gateway.traces.types import NO_TOKEN_PRICE

_WRITES_NOTHING = "embeddings"


def reserve(trace: OpenTrace, account: Account, choices: int) -> None:
    """Reserve for a request whose plan is made. Raises ApiError: 429, or 403 and 503 (`refused`)."""
    most, written = asked_for(trace.request, choices)
    if trace.endpoint.operation == _WRITES_NOTHING:
        most = 0
    estimate = estimate_tokens(len(trace.request), most, written)
    pools = trace.live.pools
    prices = [pools[target.upstream].prices.of(target.model) for target in trace.plan.targets]
    _take(trace, account, estimate.tokens, estimate_usd(prices, estimate))


def reserve_unread(trace: OpenTrace, account: Account) -> None:
    """Reserve for a request that is passed through: it counts as one, and nobody knows its price.

    Raises ApiError as `reserve` does.
    """
    assert trace.live.table.default_upstream is not None, "it was admitted"
    default = trace.live.pools[trace.live.table.default_upstream]
    _take(trace, account, 0, 0.0 if default.prices.of("") is NO_TOKEN_PRICE else None)


def _take(trace: OpenTrace, account: Account, tokens: int, usd: float | None) -> None:
    taken = trace.state.ledger.reserve(account, time.time(), tokens=tokens, usd=usd)
    if isinstance(taken, Refusal):
        raise refused(taken)
    trace.reservation = taken
