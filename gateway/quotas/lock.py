"""A lock between processes that dies with its holder and is never waited for long.

A process that is stopped (SIGSTOP, a debugger) while it holds the lock keeps it. The others must go on
serving what needs no lock: one wait of WAIT_S, then for PAUSE_S only a look in passing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

from gateway.errors import OperationError

log = logging.getLogger(__name__)

WAIT_S = 0.1  # on an event loop; a holder that merely lost its CPU is back long before
PAUSE_S = 5.0  # after a wait in vain nobody waits again for this long: at most 2 % of a loop's time
_POLL_S = 50e-6


class BoundedLock:
    """The lock at *path*. Each object excludes every other one, of this process too; not re-entrant."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._paused_until = 0.0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperationError(f"{path}: cannot be opened: {error.strerror}") from error

    def acquire(self, wait_s: float = WAIT_S) -> bool:
        """Take the lock. False: another process has held it for *wait_s*, or did so less than PAUSE_S ago."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._wait(wait_s)
        if self._paused_until:
            self._paused_until = 0.0
        return True

    def release(self) -> None:
        """Give it back. Harmless when it is not held."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)

    def _wait(self, wait_s: float) -> bool:
        now = time.monotonic()
        if now < self._paused_until:
            return False
        deadline = now + wait_s
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)  # also lets a thread of this process that holds it go on
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return True
        self._paused_until = time.monotonic() + PAUSE_S
        log.warning(
            "%s has been held by another process for %g s; look for a stopped gateway process",
            self._path,
            wait_s,
        )
        return False
