"""What a request costs on a machine that is paid by the hour, idle or not. Pure: time is an argument."""

from __future__ import annotations

from collections import deque

WINDOW_S = 300.0  # utilisation is measured over the last five minutes
UTILISATION_FLOOR = 0.05  # a request alone in the night pays for at most twenty times its own share
_BUCKET_S = 5.0
_SECONDS_PER_HOUR = 3600.0


class MachineTime:
    """Shares a machine's time among the requests on it.

    While k requests are in flight each uses 1/k of the machine, so a request's share is the integral of dt/k
    over its stay, read off one running sum at its start and its end. The share is then divided by the
    utilisation, the part of the trailing window in which at least one request was there, so that idle time
    is paid for too: over a window, the costs add up to the window's price.

    `workers`: how many gateway processes use the machine alike; each sees only its own requests, so each
    attributes only its part of the machine.
    """

    def __init__(self, price_per_hour: float, *, workers: int, now: float) -> None:
        self._price_per_second = price_per_hour / _SECONDS_PER_HOUR / workers
        self._in_flight = 0
        self._share = 0.0  # machine seconds that one request would have used, had it been here all along
        self._since = now
        self._started = now
        self._busy: deque[list[float]] = deque()  # [bucket's start, busy seconds in it]

    def enter(self, now: float) -> float:
        """A request begins; returns what `leave` takes."""
        self._advance(now)
        self._in_flight += 1
        return self._share

    def leave(self, entered: float, now: float) -> float:
        """A request ends; returns what it cost, in USD."""
        self._advance(now)
        self._in_flight -= 1
        return (self._share - entered) * self._price_per_second / self.utilisation(now)

    def utilisation(self, now: float) -> float:
        """Busy part of the trailing window, at least UTILISATION_FLOOR and at most 1."""
        self._advance(now)
        window = min(WINDOW_S, now - self._started)
        if window <= 0:
            return 1.0
        busy = sum(seconds for _, seconds in self._busy)
        return min(1.0, max(UTILISATION_FLOOR, busy / window))

    def _advance(self, now: float) -> None:
        elapsed = now - self._since
        if elapsed > 0:
            if self._in_flight:
                self._share += elapsed / self._in_flight
                self._add_busy(self._since, now)
            self._since = now
        while self._busy and self._busy[0][0] + _BUCKET_S <= now - WINDOW_S:
            self._busy.popleft()

    def _add_busy(self, start: float, end: float) -> None:
        start = max(start, end - WINDOW_S)
        while start < end:
            bucket = start // _BUCKET_S * _BUCKET_S
            until = min(end, bucket + _BUCKET_S)
            if self._busy and self._busy[-1][0] == bucket:
                self._busy[-1][1] += until - start
            else:
                self._busy.append([bucket, until - start])
            start = until
