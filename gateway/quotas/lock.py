"""Locks between processes: each dies with its holder, and none is waited for long.

A process that is stopped (SIGSTOP, a debugger) while it holds a lock keeps it. The others must go on serving
what needs no lock: one wait of WAIT_S, then for PAUSE_S only a look in passing.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import BinaryIO

from gateway.errors import OperationError
from gateway.file_lock import try_lock, unlock

log = logging.getLogger(__name__)

WAIT_S = 0.1  # on an event loop; a holder that merely lost its CPU is back long before
PAUSE_S = 5.0  # after a wait in vain nobody waits again for this long: at most 2 % of a loop's time
_POLL_S = 50e-6


def open_private(path: Path) -> BinaryIO:
    """The file at *path*, made where it is missing, for this user alone. Raises OperationError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        return path.open("r+b", buffering=0)
    except OSError as error:
        raise OperationError(f"{path}: the limits of keys need this file: {error.strerror}") from error


def lock_now(path: Path) -> BinaryIO | None:
    """The file at *path*, locked until it is closed; None: another has locked it. Raises OperationError."""
    file = open_private(path)
    if try_lock(file.fileno()):
        return file
    file.close()
    return None


class BoundedLock:
    """A lock of the open *file*, for moments. It excludes whoever else has opened it; not re-entrant."""

    def __init__(self, file: BinaryIO) -> None:
        self._name = file.name
        self._fd = file.fileno()
        self._paused_until = 0.0

    def acquire(self, wait_s: float = WAIT_S) -> bool:
        """Take the lock. False: another process has held it for *wait_s*, or did so less than PAUSE_S ago."""
        if not try_lock(self._fd):
            return self._wait(wait_s)
        self._paused_until = 0.0
        return True

    def release(self) -> None:
        unlock(self._fd)

    def _wait(self, wait_s: float) -> bool:
        now = time.monotonic()
        if now < self._paused_until:
            return False
        deadline = now + wait_s
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)  # also lets a thread of this process that holds it go on
            if try_lock(self._fd):
                return True
        self._paused_until = time.monotonic() + PAUSE_S
        log.warning(
            "%s has been held by another process for %g s; look for a stopped gateway process",
            self._name,
            wait_s,
        )
        return False
