"""Counts of what happened lately, in slices of time: quick, and bounded in memory. Time is an argument."""

from __future__ import annotations

SLICES = 10


class RecentCounts:
    """How often each of `width` things happened within the last `window_s` seconds.

    What is older than the window is never counted; what is younger than the window less one of its SLICES
    always is. Adding costs the same however much has happened.
    """

    __slots__ = ("_current", "_ends_at", "_slice_s", "_slices", "_totals")

    def __init__(self, width: int, window_s: float) -> None:
        self._slice_s = window_s / SLICES
        self._slices = [[0] * width for _ in range(SLICES)]  # the oldest is the one after the current
        self._totals = [0] * width
        self._current = 0
        self._ends_at = float("-inf")  # of the current slice

    def add(self, thing: int, now: float) -> None:
        """It happened once more."""
        if now >= self._ends_at:
            self._turn(now)
        self._slices[self._current][thing] += 1
        self._totals[thing] += 1

    def totals(self, now: float) -> list[int]:
        """One count for each thing. The caller reads it before anything is added, and changes nothing."""
        if now >= self._ends_at:
            self._turn(now)
        return self._totals

    def clear(self) -> None:
        """Nothing has happened."""
        for counts in (*self._slices, self._totals):
            counts[:] = [0] * len(counts)

    def _turn(self, now: float) -> None:
        """Drop the slices that lie further back than the window."""
        late_s = now - self._ends_at
        if late_s >= self._slice_s * (SLICES - 1):
            self.clear()
            self._ends_at = now + self._slice_s
            return
        turns = int(late_s / self._slice_s) + 1
        for _ in range(turns):
            self._current = (self._current + 1) % SLICES
            oldest = self._slices[self._current]
            self._totals[:] = [total - count for total, count in zip(self._totals, oldest, strict=True)]
            oldest[:] = [0] * len(oldest)
        self._ends_at += turns * self._slice_s
