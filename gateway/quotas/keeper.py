"""Keeps the counters of all processes: saves what changed, and releases what killed processes held.

Every process does, and whichever comes first does what is due. A stop of processes, however hard, loses
nothing that was settled: shared memory outlives them. A crash of the machine loses what was settled since the
last save, which was at most SAVE_EVERY_S and TICK_S before, and what was in flight.
"""

from __future__ import annotations

import asyncio
import logging
import time

from gateway.errors import OperationError
from gateway.quotas.counters import CHANGES, SAVED_AT, SAVED_CHANGES, SWEPT_AT, Counters
from gateway.quotas.ledger import Ledger
from gateway.quotas.owners import sweep
from gateway.quotas.saving import Save

log = logging.getLogger(__name__)

TICK_S = 1.0
SAVE_EVERY_S = 5.0
# What a killed process had reserved blocks its keys for this long at most, while another one lives.
RELEASE_WITHIN_S = 2 * TICK_S


async def keep(ledger: Ledger) -> None:
    """Do what is due every TICK_S, until cancelled."""
    complaint = ""
    while True:
        try:
            await tick(ledger, time.time())
            complaint = ""
        except OperationError as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning("%s", complaint)
        await asyncio.sleep(TICK_S)


async def tick(ledger: Ledger, at_s: float) -> None:
    """Do what is due at *at_s*. Raises OperationError.

    A thread that waits for the interpreter with the lock of the counters in its hand would hold up every
    worker; so a thread of ours has the disk to itself, and the event loop everything else.
    """
    ledger.settle_waiting()
    counters = ledger.counters
    if counters is None:
        return
    with counters.locked():
        sweeps = _claim(counters, SWEPT_AT, TICK_S, at_s)
        saves = _changed(counters) and _claim(counters, SAVED_AT, SAVE_EVERY_S, at_s)
    if sweeps:
        sweep(counters)
    if saves:
        save = Save(ledger.files, counters, at_s)
        await asyncio.to_thread(save.write)
        counters.words[SAVED_CHANGES] = save.changes


def save_last(ledger: Ledger, at_s: float) -> None:
    """Save what was settled since the last save, at a worker's end. Blocks; never raises.

    The end of all processes saves too, but a container's time may be up before it comes.
    """
    ledger.settle_waiting()
    counters = ledger.counters
    if counters is None or not _changed(counters):
        return
    try:
        save = Save(ledger.files, counters, at_s)
        save.write()
    except OperationError as error:
        log.warning("%s", error)
    else:
        counters.words[SAVED_CHANGES] = save.changes


def _changed(counters: Counters) -> bool:
    return counters.words[CHANGES] != counters.words[SAVED_CHANGES]


def _claim(counters: Counters, word: int, every_s: float, at_s: float) -> bool:
    """Whether what was last done at *word* is due; then it is ours to do. Needs the lock."""
    since_s = at_s - counters.words[word]
    if 0 <= since_s < every_s:  # below 0: a clock that was set back must not put it off
        return False
    counters.words[word] = int(at_s)
    return True
