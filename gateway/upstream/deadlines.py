"""Deadlines, swept by one timer for the whole worker: a request costs two assignments, not two timers."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

SWEEP_S = 0.1  # how late a deadline may be noticed


class Watched(Protocol):
    """Something that waits. `expires_at` is monotonic time and may change at any moment."""

    expires_at: float

    def expire(self) -> None:
        """The time has passed. Called again at each sweep until it is forgotten or `expires_at` moves."""


class Sweeper:
    """Calls `expire` on what is watched once its time has passed, at most SWEEP_S late."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, item: Watched) -> None:
        self._watched.add(item)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def forget(self, item: Watched) -> None:
        self._watched.discard(item)

    def _sweep(self) -> None:
        now = time.monotonic()
        for item in [item for item in self._watched if item.expires_at <= now]:
            item.expire()
        self._timer = None
        if self._watched:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
