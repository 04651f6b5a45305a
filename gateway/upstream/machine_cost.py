"""What a request costs on a machine that is paid by the hour, idle or not. Time and memory are arguments."""

from __future__ import annotations

import math
import secrets
from typing import NamedTuple

WINDOW_S = 300.0  # idle time that requests pay for afterwards; of a longer pause, nobody pays the rest
MAX_SURCHARGE = 20.0  # a request alone in the night pays at most this many times its own share

_SECONDS_PER_HOUR = 3600.0
# So many seconds in use pay for 1 - 1/e of the idle time that is owed, which makes MAX_SURCHARGE the dearest.
_PAYS_WITHIN_S = WINDOW_S / (MAX_SURCHARGE - 1)
_THIS_PROCESS = float(1 + secrets.randbits(48))

# Cells: two for all, then those of each worker. Times are in seconds; a worker's are as of its last event.
_ORIGIN, _FORGIVEN = 0, 1
_FIRST, _EACH = 2, 7
_PROCESS, _IN_FLIGHT, _AT, _STAYED, _SEEN, _CHARGED, _SHARE = range(_EACH)


def cells_for(workers: int) -> int:
    """How many doubles *workers* share for one machine."""
    return _FIRST + _EACH * workers


class _Sums(NamedTuple):
    """All workers together, now."""

    in_flight: float
    stayed: float  # request seconds so far
    charged: float  # machine seconds that requests have been charged
    waiting: float  # machine seconds in use that are still to be charged, by how it looks now
    last_event: float


class MachineTime:
    """Shares a machine's time among the requests on it, whichever worker they came through.

    While k requests are in flight each uses 1/k of the machine. Idle time is owed until later requests have
    paid for it, each by its own share: the more is owed, the more they pay. So no second is paid for twice,
    and what requests pay adds up to the price of the time, but for what is still owed and for the part of a
    pause beyond WINDOW_S, which is forgiven.

    *cells* are `cells_for(workers)` doubles, zero at first, that all workers share; each writes its own and
    needs no lock. A worker knows of the others' requests how many there were on average since its own last
    event. What that misses is owed like idle time: who pays may be off a little, and the sum is not. Their
    clocks must be one (on one machine, the monotonic one is).
    """

    def __init__(self, price_per_hour: float, cells: memoryview[float], worker: int) -> None:
        self._price_per_second = price_per_hour / _SECONDS_PER_HOUR
        self._cells = cells
        self._own = _FIRST + _EACH * worker
        if cells[self._own + _PROCESS] != _THIS_PROCESS:
            # What a killed worker had in flight will not end.
            cells[self._own + _PROCESS] = _THIS_PROCESS
            cells[self._own + _IN_FLIGHT] = 0.0

    def enter(self, now: float) -> float:
        """A request begins; returns what `leave` takes."""
        self._advance(now)
        self._cells[self._own + _IN_FLIGHT] += 1.0
        return self._cells[self._own + _SHARE]

    def leave(self, entered: float, now: float) -> float:
        """A request ends; returns what it cost, in USD."""
        self._advance(now)
        cells, own = self._cells, self._own
        cells[own + _IN_FLIGHT] = max(0.0, cells[own + _IN_FLIGHT] - 1.0)
        return (cells[own + _SHARE] - entered) * self._price_per_second

    def owed_s(self, now: float) -> float:
        """Machine seconds that nobody has paid for, nor will by being in flight now."""
        sums = self._sums(now)
        return self._unpaid(sums, now) - sums.waiting

    def _advance(self, now: float) -> None:
        """Charge this worker's requests for the time since its last event."""
        cells, own = self._cells, self._own
        if not 0.0 < cells[_ORIGIN] <= now:
            self._begin(now)
        elapsed = now - cells[own + _AT]
        if elapsed <= 0:
            return
        sums = self._sums(now)
        if in_flight := cells[own + _IN_FLIGHT]:
            stayed = in_flight * elapsed
            used = elapsed * stayed / max(stayed, sums.stayed - cells[own + _SEEN])
            unpaid = self._unpaid(sums, now)
            idle = min(WINDOW_S, max(0.0, unpaid - sums.waiting))
            charge = max(0.0, min(unpaid, used - idle * math.expm1(-used / _PAYS_WITHIN_S)))
            cells[own + _STAYED] += stayed
            cells[own + _CHARGED] += charge
            cells[own + _SHARE] += charge / in_flight
        elif not sums.in_flight:
            self._forgive(sums, now)
        cells[own + _SEEN] = sums.stayed
        cells[own + _AT] = now

    def _sums(self, now: float) -> _Sums:
        cells = self._cells
        in_flight = stayed = charged = open_stays = last_event = 0.0
        for start in range(_FIRST, len(cells), _EACH):
            stayed += cells[start + _STAYED]
            charged += cells[start + _CHARGED]
            at = cells[start + _AT]
            last_event = max(last_event, at)
            if here := cells[start + _IN_FLIGHT]:
                in_flight += here
                open_stays += here * max(0.0, now - at)
        waiting = open_stays / in_flight if in_flight else 0.0
        return _Sums(in_flight, stayed + open_stays, charged, waiting, last_event)

    def _unpaid(self, sums: _Sums, now: float) -> float:
        return now - self._cells[_ORIGIN] - self._cells[_FORGIVEN] - sums.charged

    def _forgive(self, sums: _Sums, now: float) -> None:
        """A pause ends: it is responsible for at most its own length of what is owed."""
        forgiven = self._cells[_FORGIVEN]
        owed = now - self._cells[_ORIGIN] - forgiven - sums.charged
        if owed > WINDOW_S:
            # Set, not added to what is there by now: two workers may end one pause, and it is one.
            self._cells[_FORGIVEN] = forgiven + min(now - sums.last_event, owed - WINDOW_S)

    def _begin(self, now: float) -> None:
        """The first request of all, or the first since the machine's clock began anew."""
        cells = self._cells
        for start in range(_FIRST, len(cells), _EACH):
            cells[start + _AT] = now
            cells[start + _STAYED] = cells[start + _SEEN] = cells[start + _CHARGED] = 0.0
        cells[_FORGIVEN] = 0.0
        cells[_ORIGIN] = now
