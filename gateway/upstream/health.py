"""Whether a server is asked: ejected when it fails, with growing pauses, and probed back in. No I/O.

    healthy ──fails──▶ ejected, until its pause is over ──▶ probing ──trials answered──▶ healthy
                          ▲                                    │
                          └──────── a trial fails ─────────────┘

A request begins with `enter` and ends with `leave`; what it met counts only in the state in which it began,
so that a hundred requests that die with their server are one ejection and not a hundred. Whether a server
that is not `available` is asked none the less is the caller's decision (`gateway.upstream.balance`).
"""

from __future__ import annotations

from random import Random
from typing import Literal

from gateway.config.resilience import Ejection
from gateway.upstream.recent_counts import RecentCounts

_ANSWERED, _FAILED = 0, 1
_SETTLED = -1  # a ticket of no state: whatever it ends with counts no more

# Reasons of attempts that say that the server is ill: unreachable, silent, or broken off.
_ILL = frozenset(
    {
        "connect",
        "connect_timeout",
        "headers_timeout",
        "first_token_timeout",
        "idle_timeout",
        "disconnected",
        "protocol",
        "no_finish_reason",
        "not_json",
        "status_5xx",
    }
)
_NOT_IMPLEMENTED = 501


def verdict(status: int | None, reason: str | None) -> bool | None:
    """What an attempt that ended with *status*, for the *reason* why it failed, says of its server's health.

    True: it answered. False: it is ill. None: nothing. A 4xx says nothing, as a server in front of a dead
    one can refuse a bad request all by itself; a 429 is load (see `ServerHealth.rest`); a client that left
    and the loser of a race were broken off by us; the total deadline may have passed in a queue, or at a
    slow client.
    """
    if status is not None and status >= 400:
        return False if status >= 500 and status != _NOT_IMPLEMENTED else None
    if reason is None:
        return True if status is not None else None
    return False if reason in _ILL else None


def told(status: int | None, reason: str | None) -> str | None:
    """What people are told of an attempt that failed: the status, where its server answered with an error."""
    return f"status_{status}" if status is not None and status >= 500 else reason


class ServerHealth:
    """The health of one server as one worker sees it, under *settings*. *random* shortens its pauses.

    `pause_s` is the length of its last pause, before jitter took from it; 0 when it has had none. `why`: the
    failure that it was last ejected for.
    """

    __slots__ = (
        "_epoch",
        "_healthy_since",
        "_in_a_row",
        "_passed",
        "_random",
        "_recent",
        "_settings",
        "_trials",
        "ejected_until",
        "healthy",
        "pause_s",
        "rests_until",
        "why",
    )

    def __init__(self, settings: Ejection, random: Random) -> None:
        self._settings = settings
        self._random = random
        self.healthy = True
        self.pause_s = 0.0
        self.why: str | None = None
        self.ejected_until = float("-inf")
        self.rests_until = float("-inf")
        self._healthy_since = float("-inf")
        self._epoch = 0  # of the state that requests begin in
        self._trials = 0  # running
        self._passed = 0  # trials, since the last that failed
        self._in_a_row = 0  # failures
        self._recent = RecentCounts(2, settings.window_s)

    def available(self, now: float) -> bool:
        """Whether it may be asked: it is healthy, or due for a trial; and not at rest."""
        if self.healthy:
            return now >= self.rests_until
        return now >= self.ejected_until and self._trials < self._settings.probes and now >= self.rests_until

    def state(self, now: float) -> Literal["healthy", "ejected", "probing"]:
        """What people are told."""
        if self.healthy:
            return "healthy"
        return "ejected" if now < self.ejected_until else "probing"

    def rest(self, seconds: float, now: float) -> None:
        """It asked (`retry-after`) to be left alone for *seconds*: others are preferred, at most `cap_s`."""
        self.rests_until = max(self.rests_until, now + min(seconds, self._settings.cap_s))

    def enter(self, now: float) -> int:
        """A request begins; returns its ticket. After a pause it is a trial, while there are too few."""
        if self.healthy:
            return self._epoch << 1
        if now < self.ejected_until or self._trials >= self._settings.probes:
            return self._epoch << 1  # for want of a better server
        self._trials += 1
        return self._epoch << 1 | 1

    def opened(self, ticket: int, now: float) -> int:
        """Its answer has begun; returns the ticket to leave with.

        A trial has passed with that: nobody waits for the end of a long answer to ask the server again.
        """
        if self.healthy or ticket >> 1 != self._epoch:
            return ticket
        self._judge(ticket, now, ok=True)
        return _SETTLED

    def leave(self, ticket: int, now: float, *, ok: bool | None, why: str | None = None) -> None:
        """A request has ended with the verdict *ok*; *why* is what people are told where it failed.

        To be called once for each `enter`, whatever happens.
        """
        if ticket >> 1 != self._epoch:
            return
        if not self.healthy:
            self._judge(ticket, now, ok=ok, why=why)
        elif ok:
            self._in_a_row = 0
            self._recent.add(_ANSWERED, now)
        elif ok is False:
            self._in_a_row += 1
            self._recent.add(_FAILED, now)
            if self._fails(now):
                self._eject(now, why)

    def _fails(self, now: float) -> bool:
        settings = self._settings
        if self._in_a_row >= settings.consecutive:
            return True
        answered, failed = self._recent.totals(now)
        count = answered + failed
        return count >= settings.min_requests and failed >= settings.share * count

    def _judge(self, ticket: int, now: float, *, ok: bool | None, why: str | None = None) -> None:
        """A request that began while it was not healthy has shown what it can."""
        is_trial = bool(ticket & 1)
        self._trials -= is_trial
        if ok:
            self._passed += 1
            if self._passed >= self._settings.passes:
                self._restore(now)
        elif ok is False:
            self._passed = 0
            if is_trial:  # the pauses do not grow by what was asked of it in spite of them
                self._eject(now, why)

    def _eject(self, now: float, why: str | None) -> None:
        settings = self._settings
        self.why = why
        # One that fails again before it served for as long as it paused goes on where it stopped.
        if self.healthy and now - self._healthy_since >= max(self.pause_s, settings.window_s):
            self.pause_s = 0.0
        self.pause_s = min(settings.cap_s, self.pause_s * settings.growth or settings.base_s)
        self.ejected_until = now + self.pause_s * self._random.uniform(1 - settings.jitter, 1)
        self.healthy = False
        self._begin()

    def _restore(self, now: float) -> None:
        self.healthy = True
        self._healthy_since = now
        self._begin()

    def _begin(self) -> None:
        self._epoch += 1
        self._trials = self._passed = self._in_a_row = 0
        self._recent.clear()
