"""Spool files that stand back, since the store refused all of one or the disk what was refused of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

import msgspec

from gateway.errors import OperationError

log = logging.getLogger(__name__)

HELD_TRIES = 6  # of a file that is refused as a whole while the store takes others
HELD_FIRST_S, HELD_MAX_S = 1.0, 60.0


class _Held(msgspec.Struct):
    why: str
    tries: int
    again_at: float  # time.monotonic's clock
    stored_before: int  # files that the store had taken when it was first refused


class HeldFiles:
    """The files that stand back, by name: each is tried again, after growing pauses."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._stored = 0  # files

    @property
    def why(self) -> str | None:
        """What is wrong with the first of them."""
        return next((held.why for held in self._held.values()), None)

    def tries(self, name: str) -> int:
        """How often *name* was held; 0: it does not stand back."""
        held = self._held.get(name)
        return 0 if held is None else held.tries

    def stands_back(self, name: str) -> bool:
        """Whether it is not yet time to try *name* again."""
        held = self._held.get(name)
        return held is not None and time.monotonic() < held.again_at

    def hold(self, name: str, error: OperationError) -> None:
        """Have *name* stand back for *error*."""
        first = _Held(why=str(error), tries=0, again_at=0.0, stored_before=self._stored)
        held = self._held.setdefault(name, first)
        held.again_at = time.monotonic() + min(HELD_MAX_S, HELD_FIRST_S * 2.0**held.tries)
        held.tries += 1
        if held.tries == 1:
            log.warning("%s; spool file %s stands back", error, name)

    def is_blamed(self, name: str) -> bool:
        """Whether *name* was refused often enough while the store took others."""
        held = self._held.get(name)
        return held is not None and held.tries >= HELD_TRIES and self._stored > held.stored_before

    def stored(self, name: str) -> None:
        """The store has taken *name*."""
        self._held.pop(name, None)
        self._stored += 1

    def keep_only(self, names: Collection[str]) -> None:
        """Forget files that are not among *names*: they were dropped."""
        self._held = {name: held for name, held in self._held.items() if name in names}
