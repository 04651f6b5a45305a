"""When a stream that has not begun is asked for a second time, and how often that may be. No I/O."""

from __future__ import annotations

from gateway.config.resilience import Hedge
from gateway.upstream.recent_latency import RecentLatency
from gateway.upstream.share_budget import ShareBudget


class Hedging:
    """The hedging of one upstream: `arrive` and `observe` once for each request, `take` before a second one.

    Only first attempts are observed, also those that are overtaken: leaving the slow ones out would make the
    quantile fall with every hedge, and ever more requests seem slow. What fails at once is not observed.
    """

    __slots__ = ("_budget", "_latency", "_min_delay_s")

    def __init__(self, settings: Hedge) -> None:
        self._min_delay_s = settings.min_delay_s
        self._latency = RecentLatency(settings.quantile)
        self._budget = ShareBudget(settings.budget)

    def arrive(self, now: float) -> float | None:
        """A request has come. Seconds after which a second one may help; None: too little is known."""
        self._budget.deposit(now)
        usual_s = self._latency.value_s(now)
        return None if usual_s is None else max(self._min_delay_s, usual_s)

    def observe(self, seconds: float, now: float) -> None:
        """A first attempt had content after *seconds*; or had none yet when overtaken, or at its deadline."""
        self._latency.observe(seconds, now)

    def take(self, now: float) -> bool:
        """Whether the second request may be sent now. It counts as sent."""
        return self._budget.withdraw(now)
