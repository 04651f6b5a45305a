"""What the recorder drops where a bound is reached: the oldest first, and all of it counted."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from gateway.traces.segments import SegmentReader
from gateway.traces.spool.progress import Progress
from gateway.traces.spool.spool import Spool
from gateway.traces.types import captured_at_us

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 60.0  # while nothing can be written: how often memory is looked through for what is too old


class Dropping:
    """Drops from spool and memory what `capture.at_bound: drop_oldest` says must go.

    What goes from the spool is counted in *progress* and saved at *saved_at* before it goes.
    """

    def __init__(
        self,
        reader: SegmentReader,
        spool: Spool,
        progress: Progress,
        saved_at: Path,
        max_age_s: float,
    ) -> None:
        self._reader = reader
        self._spool = spool
        self._progress = progress
        self._saved_at = saved_at
        self._max_age_s = max_age_s
        self._expire_at = 0.0

    def make_room(self, payloads: list[bytes]) -> None:
        """Drop the oldest sealed files that the shipper does not have in hand until *payloads* fit.

        Raises OSError.
        """
        over = self._spool.over(payloads)
        for path in self._spool.sealed():
            if over <= 0:
                break
            over -= self._drop(path, "spool_bound", "capture.max_bytes")

    def let_go_of_the_old(self) -> None:
        """Drop the sealed files that have waited longer than capture.max_age_days. Raises OSError."""
        for path in self._spool.older_than(self._max_age_s):
            self._drop(path, "spool_age", "capture.max_age_days")

    def expire(self) -> None:
        """While nothing can be written: drop from memory what has waited longer than capture.max_age_days."""
        if time.monotonic() < self._expire_at:
            return
        self._expire_at = time.monotonic() + EXPIRE_EVERY_S
        before_us = (time.time() - self._max_age_s) * 1e6
        for path in self._reader.segments():
            first_end, first_count = end, count = self._progress.position(path.name)
            batch = self._reader.read(path, end)
            for record in batch.records if batch else ():
                if captured_at_us(record.captured) >= before_us:
                    break
                end, count = record.end, count + 1
            if end == first_end:
                continue
            self._progress.drop("memory_age", count - first_count)
            self._progress.positions[path.name] = (end, count)
            log.warning("dropped %d traces from memory: capture.max_age_days", count - first_count)

    def _drop(self, path: Path, reason: str, setting: str) -> int:
        """The bytes that dropping *path* frees; 0: the shipper has it in hand."""
        return self._spool.drop(path, partial(self._account, reason, setting))

    def _account(self, reason: str, setting: str, count: int) -> None:
        with self._progress.counting(self._saved_at):
            self._progress.drop(reason, count)
        log.warning("dropped %d rows of the spool (%s); raise %s", count, reason, setting)
