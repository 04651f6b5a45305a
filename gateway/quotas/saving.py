"""`state/limits.json`: what keys have used, for when shared memory is gone. A bad file is set aside."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from gateway.config.base import Name
from gateway.config.types import Period
from gateway.errors import OperationError
from gateway.paths import Paths
from gateway.quotas.counters import CHANGES, COUNTERS, Counters
from gateway.quotas.lock import lock_now
from gateway.quotas.tally import EMPTY, WINDOW, Tally, place_of, sums_in
from gateway.quotas.windows import PERIODS, numbers_at, starts_at
from gateway.state_file import read_or_set_aside, write_state

Amount = Annotated[int, Meta(ge=0, le=1 << 62)]
Moment = Annotated[datetime, Meta(tz=True)]


class QuotaFiles(NamedTuple):
    """`folder` is in shared memory, `saved` in the state directory."""

    folder: Path
    saved: Path

    @classmethod
    def of(cls, paths: Paths) -> QuotaFiles:
        return cls(paths.quotas, paths.state / "limits.json")

    def exist(self) -> bool:
        """Whether a process has counted since shared memory was last released."""
        return (self.folder / COUNTERS).exists()


class SavedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """What was used in the window of *per* that starts at *starts_at* (UTC)."""

    per: Period
    starts_at: Moment
    requests: Amount
    tokens: Amount
    nano_usd: Amount


class SavedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key by its name, and its windows that are not long over."""

    name: Name
    windows: list[SavedWindow]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    keys: list[SavedKey]


class Save:
    """What is to be saved, and the right to do it: from here to the end of `write` no other process saves.

    To be made on the thread of *counters*. Raises OperationError.
    """

    def __init__(self, files: QuotaFiles, counters: Counters, at_s: float) -> None:
        lock = lock_now(files.saved.with_suffix(".lock"))
        if lock is None:
            raise OperationError(
                f"{files.saved}: another process is saving it; look at the disk, or for a stopped process"
            )
        try:
            self.changes, self._saved = _snapshot(counters, at_s)
        except BaseException:
            lock.close()
            raise
        self._path, self._lock = files.saved, lock

    def write(self) -> None:
        """Replace the file. Blocks. Raises OperationError where the disk refuses."""
        with self._lock:
            write_state(self._path, self._saved)


def save_left_behind(files: QuotaFiles, at_s: float) -> None:
    """Save what processes that are gone have counted, if any did. Blocks. Raises OperationError."""
    if not files.exist():
        return
    counters = open_counters(files)
    try:
        Save(files, counters, at_s).write()
    finally:
        counters.close()


def open_counters(files: QuotaFiles) -> Counters:
    """The counters; where there are none yet, new ones with what was saved. Raises OperationError."""

    def seed(counters: Counters) -> None:
        saved = read_or_set_aside(files.saved, Saved, "keys with limits start with nothing used")
        for key in saved.keys if saved else []:
            used = list(EMPTY)
            for window in key.windows:
                period = PERIODS.index(window.per)
                number = numbers_at(window.starts_at.timestamp())[period]
                at = place_of(period, number)
                used[at : at + WINDOW] = number, window.requests, window.tokens, window.nano_usd
            counters.slot_of(key.name, used)

    return Counters(files.folder, seed)


def _snapshot(counters: Counters, at_s: float) -> tuple[int, Saved]:
    """How often the counters had been changed, and what was used then, or a little more."""
    with counters.locked():
        changes = counters.words[CHANGES]
        slots = list(counters.slots().items())
    keys: list[SavedKey] = []
    for name, slot in slots:
        with counters.locked():  # one account at a time: others want it for microseconds
            used, _ = counters.read(slot)
        if windows := _windows(used, at_s):
            keys.append(SavedKey(name=name, windows=windows))
    return changes, Saved(keys=keys)


def _windows(used: Tally, at_s: float) -> list[SavedWindow]:
    windows = []
    for period, now in enumerate(numbers_at(at_s)):
        for number in (now - 1, now):
            sums = sums_in(used, period, number)
            if any(sums):
                windows.append(
                    SavedWindow(per=PERIODS[period], starts_at=starts_at(period, number), **sums._asdict())
                )
    return windows
