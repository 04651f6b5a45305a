"""Keeps the counters of all processes: saves what changed, and releases what killed processes held.

Every process has one, and whichever comes first does what is due. A stop of processes, however hard, loses
nothing that was settled: shared memory outlives them. A crash of the machine loses what was settled since the
last save, which was at most SAVE_EVERY_S and TICK_S before, and what was in flight.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from gateway.errors import OperationError
from gateway.quotas import layout
from gateway.quotas.counters import Counters
from gateway.quotas.files import QuotaFiles
from gateway.quotas.ledger import Ledger
from gateway.quotas.owners import sweep
from gateway.quotas.saving import Snapshot, take_snapshot, write_snapshot

log = logging.getLogger(__name__)

TICK_S = 1.0
SAVE_EVERY_S = 5.0
# What a killed process had reserved blocks its keys for this long at most, while another one lives.
RELEASE_WITHIN_S = 2 * TICK_S


class Keeper:
    """Keeps what *ledger* counts. The counters are only touched on the ledger's own thread.

    A thread that waits for the interpreter with the lock of the counters in its hand would hold up every
    worker; so a thread of ours has the disk to itself, and no lock that a request waits for.
    """

    def __init__(self, files: QuotaFiles, ledger: Ledger) -> None:
        self._files = files
        self._ledger = ledger
        self._writing = threading.Lock()  # a cancelled `run` leaves its thread behind for a moment

    async def run(self) -> None:
        """Do what is due every TICK_S, until cancelled."""
        complaint = ""
        while True:
            try:
                await self.tick(time.time())
                complaint = ""
            except OperationError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("%s", complaint)
            await asyncio.sleep(TICK_S)

    async def tick(self, at_s: float) -> None:
        """Do what is due at *at_s*, on the event loop but for the disk. Raises OperationError."""
        self._ledger.settle_waiting()
        counters = self._ledger.counters
        if counters is None:
            return
        with counters.locked():
            sweeps = _claim(counters, layout.SWEPT_AT, TICK_S, at_s)
            changed = counters.words[layout.CHANGES] != counters.words[layout.SAVED_CHANGES]
            saves = changed and _claim(counters, layout.SAVED_AT, SAVE_EVERY_S, at_s)
        if sweeps:
            sweep(counters)
        if saves:
            await asyncio.to_thread(self._write, counters, take_snapshot(counters, at_s))

    def close(self, at_s: float) -> None:
        """Save what has changed; between the end of `run` and the ledger's close. Blocks; never raises.

        Where the disk refuses, the counters are still in shared memory, and the log says so.
        """
        try:
            self._ledger.settle_waiting()
            counters = self._ledger.counters
            if counters is not None:
                self._write(counters, take_snapshot(counters, at_s))
        except OperationError as error:
            log.warning("%s", error)

    def _write(self, counters: Counters, snapshot: Snapshot) -> None:
        with self._writing:
            write_snapshot(self._files, counters, snapshot)


def _claim(counters: Counters, word: int, every_s: float, at_s: float) -> bool:
    """Whether what was last done at *word* is due; then it is ours to do. Needs the lock."""
    since_s = at_s - counters.words[word]
    if 0 <= since_s < every_s:  # below 0: a clock that was set back must not put it off
        return False
    counters.words[word] = int(at_s)
    return True
