"""Where the counters of limits lie: shared memory while processes run, the state directory in between."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.errors import OperationError
from gateway.paths import Paths
from gateway.quotas.counters import COUNTERS, Counters
from gateway.quotas.layout import USED, cell, cells_at
from gateway.quotas.lock import BoundedLock
from gateway.quotas.saved import load_saved


class QuotaFiles(msgspec.Struct, frozen=True):
    """`folder` is in shared memory, `saved` and its lock in the state directory."""

    folder: Path
    saved: Path

    @classmethod
    def of(cls, paths: Paths) -> QuotaFiles:
        return cls(paths.quotas, paths.state / "limits.json")

    def exist(self) -> bool:
        """Whether a process has counted since shared memory was last released."""
        return (self.folder / COUNTERS).exists()

    def saving_lock(self) -> BoundedLock:
        """The lock of whoever saves. Raises OperationError."""
        try:
            self.saved.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OperationError(f"{self.saved.parent}: cannot be written: {error.strerror}") from error
        return BoundedLock(self.saved.with_suffix(".lock"))

    def open(self) -> Counters:
        """The counters; where there are none yet, new ones with what was saved. Raises OperationError."""
        return Counters(self.folder, self._seed)

    def _seed(self, counters: Counters) -> None:
        for key in load_saved(self.saved):
            at = cells_at(counters.slot_of(key.name))
            for window in key.windows:
                place = at + cell(window.period, window.number)
                counters.words[place] = window.number
                for dimension, amount in enumerate((window.requests, window.tokens, window.nano_usd)):
                    counters.words[place + USED + dimension] = amount
