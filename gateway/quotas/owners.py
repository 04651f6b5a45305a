"""Owners: the processes that hold reservations. What a killed one held is given back to its keys.

Each owner keeps the lock of its file for life. Who gets the lock of another's file has found a dead one. Its
reservations are released, not charged: what an upstream did for them is in no trace and nobody knows it. One
that is merely stopped lives, and keeps what it holds until the windows end.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gateway.errors import OperationError
from gateway.quotas import layout
from gateway.quotas.cells import give_back
from gateway.quotas.counters import Counters

_ALIVE = b"1"  # in the file of an owner whose reservations nobody has released


class Owner:
    """This process among those that reserve, by its number. Raises OperationError where there is no room."""

    def __init__(self, counters: Counters) -> None:
        for number in range(layout.MAX_OWNERS):
            file = _try_lock(_path(counters.folder, number), os.O_CREAT)
            if file is None:
                continue
            try:
                release_held(counters, number)
                with counters.locked():
                    words = counters.words
                    words[layout.OWNERS] = max(words[layout.OWNERS], number + 1)
                os.pwrite(file, _ALIVE, 0)
            except BaseException:
                os.close(file)
                raise
            self.number, self._file = number, file
            return
        raise OperationError(
            f"{counters.folder}: {layout.MAX_OWNERS} gateway processes count limits already; stop some"
        )

    def close(self) -> None:
        """Leave. What is still held is released by the next sweep."""
        os.close(self._file)


def sweep(counters: Counters) -> int:
    """Release what dead owners held; how many there were. Raises OperationError."""
    dead = 0
    for number in range(counters.words[layout.OWNERS]):
        file = _try_lock(_path(counters.folder, number), 0)
        if file is None:
            continue
        try:
            if os.fstat(file).st_size:
                release_held(counters, number)
                os.ftruncate(file, 0)
                dead += 1
        finally:
            os.close(file)
    return dead


def release_held(counters: Counters, number: int) -> None:
    """Give back what owner *number* holds, who is dead: its lock is ours. Raises OperationError."""
    with counters.locked():
        slots = counters.holding(number)
    for slot in slots:
        with counters.locked():  # one account at a time: others want it for microseconds
            counters.open_draft(layout.cells_at(slot), layout.holds_at(number, slot))
            give_back(counters.words)
            counters.commit()


def _path(folder: Path, number: int) -> Path:
    return folder / f"owner-{number:03d}"


def _try_lock(path: Path, flags: int) -> int | None:
    """The file at *path*, locked; None: another has the lock, or there is no such file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperationError(f"{path}: no shared memory for the limits of keys: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
