"""At most a share of the recent requests may cost an upstream a second one. Pure: time is an argument."""

from __future__ import annotations

from gateway.upstream.recent_counts import RecentCounts

WINDOW_S = 60.0  # what "recent" means
BURST = 10.0  # extras that a run of requests may have beyond its share
_REQUEST, _EXTRA = 0, 1
_ROUNDING = 1e-9


class ShareBudget:
    """Grants extra requests, so few that they cannot melt an upstream.

    Of the last WINDOW_S, those granted are at most `share` times the requests, or `floor`, whenever one is
    granted. And any run of requests within a window has at most BURST + `floor` more than its share: a stall
    is not met with all that the minute before it would allow. Nothing is saved up over a window: without a
    floor, fewer than 1 / `share` requests a window get none.
    """

    __slots__ = ("_floor", "_recent", "_saved", "_share")

    def __init__(self, share: float, *, floor: int = 0) -> None:
        self._share = share
        self._floor = floor if share > 0 else 0
        self._saved = BURST
        self._recent = RecentCounts(2, WINDOW_S)

    def deposit(self, now: float) -> None:
        """A request has come, of which there may be extras."""
        self._saved = min(BURST, self._saved + self._share)
        self._recent.add(_REQUEST, now)

    def withdraw(self, now: float) -> bool:
        """Take one extra; False when the budget is spent."""
        requests, extras = self._recent.totals(now)
        if extras >= self._floor:
            if extras + 1 > self._share * requests + _ROUNDING or self._saved < 1 - _ROUNDING:
                return False
            self._saved -= 1
        self._recent.add(_EXTRA, now)
        return True
