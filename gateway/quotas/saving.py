"""From the counters to `state/limits.json`: a snapshot in memory, then one file replaced."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from gateway.errors import OperationError
from gateway.quotas import layout
from gateway.quotas.counters import START_WAIT_S, Counters
from gateway.quotas.files import QuotaFiles
from gateway.quotas.saved import Saved, SavedKey, SavedWindow, saved_window, write_saved
from gateway.quotas.windows import numbers_at

_SLOTS_AT_ONCE = 64  # copied under one lock: some 100 microseconds


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What was used when the counters had been changed *changes* times, or a little more."""

    changes: int
    saved: Saved


def take_snapshot(counters: Counters, at_s: float) -> Snapshot:
    """What every key has used in the windows that are not long over at *at_s*. Raises OperationError."""
    with counters.locked():
        changes = counters.words[layout.CHANGES]
        slots = list(counters.slots().items())
    keys: list[SavedKey] = []
    for first in range(0, len(slots), _SLOTS_AT_ONCE):
        with counters.locked():
            copied = [(name, counters.cells(slot)) for name, slot in slots[first : first + _SLOTS_AT_ONCE]]
        for name, cells in copied:
            windows = _used(cells, at_s)
            if windows:
                keys.append(SavedKey(name=name, windows=windows))
    return Snapshot(changes=changes, saved=Saved(saved_at=datetime.fromtimestamp(at_s, UTC), keys=keys))


def write_snapshot(files: QuotaFiles, counters: Counters, snapshot: Snapshot) -> None:
    """Save *snapshot*, unless a newer one has been. Blocks, without the lock of the counters.

    Raises OperationError when the disk refuses, or another process does not get done with saving.
    """
    saving = files.saving_lock()
    try:
        if not saving.acquire(START_WAIT_S):
            raise OperationError(
                f"{files.saved}: another process has been saving for {START_WAIT_S:g} s; "
                "look for a stopped gateway process"
            )
        # One word, which only the holder of this lock writes.
        if snapshot.changes > counters.words[layout.SAVED_CHANGES]:
            write_saved(files.saved, snapshot.saved)
            counters.words[layout.SAVED_CHANGES] = snapshot.changes
    finally:
        saving.close()


def save_left_behind(files: QuotaFiles, at_s: float) -> None:
    """Save what processes that are gone have counted, if any did. Blocks. Raises OperationError."""
    if not files.exist():
        return
    counters = files.open()
    try:
        write_snapshot(files, counters, take_snapshot(counters, at_s))
    finally:
        counters.close()


def _used(cells: list[int], at_s: float) -> list[SavedWindow]:
    windows = []
    for period, now in enumerate(numbers_at(at_s)):
        for parity in (0, 1):
            at = layout.cell(period, parity)
            number = cells[at]
            requests, tokens, nano_usd = cells[at + layout.USED : at + layout.USED + 3]
            if number >= now - 1 and (requests or tokens or nano_usd):
                windows.append(saved_window(period, number, (requests, tokens, nano_usd)))
    return windows
