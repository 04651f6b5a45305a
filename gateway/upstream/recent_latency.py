"""How long most recent answers took to begin, from a histogram of bounded size. Time is an argument."""

from __future__ import annotations

from math import ceil, log

from gateway.upstream.recent_counts import RecentCounts

WINDOW_S = 300.0  # what is older is forgotten
RELATIVE_ERROR = 0.05
SHORTEST_S = 0.001  # what is shorter counts as this
LONGEST_S = 600.0  # what is longer counts as this
MIN_BEYOND = 3  # observations beyond the quantile before it is believed: 60 in all for a p95
REFRESH_S = 1.0  # how old an answer may be

# As in DDSketch: the bucket (g**(i-1), g**i] with g = (1 + e) / (1 - e) has in 2 * g**i / (g + 1) a value
# that is within e of all in it.
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / log(_GROWTH)
_LAST = ceil(log(LONGEST_S / SHORTEST_S) * _PER_LOG)
_VALUES = [SHORTEST_S, *(SHORTEST_S * 2 * _GROWTH**i / (_GROWTH + 1) for i in range(1, _LAST + 1))]


class RecentLatency:
    """The `quantile` (0.95, say) of what was observed within the last WINDOW_S.

    Within RELATIVE_ERROR of the nearest-rank quantile, where that is between SHORTEST_S and LONGEST_S. An
    observation costs the same however many there are.
    """

    __slots__ = ("_answer", "_counts", "_fresh_until", "_min_count", "_quantile")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._min_count = ceil(MIN_BEYOND / (1 - quantile) - 1e-9)  # the difference is not exact
        self._counts = RecentCounts(_LAST + 1, WINDOW_S)
        self._answer: float | None = None
        self._fresh_until = float("-inf")

    def observe(self, seconds: float, now: float) -> None:
        """An answer took *seconds* to begin, or had not begun after as many."""
        seconds = min(max(seconds, SHORTEST_S), LONGEST_S)
        self._counts.add(ceil(log(seconds / SHORTEST_S) * _PER_LOG), now)

    def value_s(self, now: float) -> float | None:
        """The quantile in seconds, at most REFRESH_S old; None: there is too little to tell it from."""
        if now >= self._fresh_until:
            self._answer = self._compute(now)
            self._fresh_until = now + REFRESH_S
        return self._answer

    def _compute(self, now: float) -> float | None:
        counts = self._counts.totals(now)
        count = sum(counts)
        if count < self._min_count:
            return None
        beyond = count - ceil(self._quantile * count - 1e-9)
        bucket = _LAST
        while (beyond := beyond - counts[bucket]) >= 0:  # from the top: the quantiles asked for are high
            bucket -= 1
        return _VALUES[bucket]
