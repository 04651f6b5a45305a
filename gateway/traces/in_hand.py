"""How far a spool file's delivery may have got, written down in its mode: that needs no room on a full disk.

    rw-------   nothing of it was sent
    r--------   an insert of all of it was begun
    r--r-----   parts of it were sent, under tokens of their own

It outlives a killed shipper. What a power cut leaves of a store is another matter: it may have the rows of an
insert and not its token.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

FRESH = stat.S_IRUSR | stat.S_IWUSR
BEGUN = stat.S_IRUSR
IN_PARTS = stat.S_IRUSR | stat.S_IRGRP
_BOOT = "btime "


class InHand:
    """A claimed spool file, by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self.begun = not status.st_mode & stat.S_IWUSR  # an earlier try may have got anywhere
        # The token of the whole says nothing about what is there.
        self.in_parts = bool(status.st_mode & stat.S_IRGRP) or (
            self.begun and status.st_ctime < booted_at(Path("/proc/stat").read_text(encoding="ascii"))
        )

    def begin(self) -> None:
        """Before the first row leaves. Raises OSError."""
        if not self.begun:
            os.fchmod(self._fd, BEGUN)

    def go_in_parts(self) -> None:
        """Before the first part leaves. Raises OSError."""
        if not self.in_parts:
            os.fchmod(self._fd, IN_PARTS)
            self.in_parts = True


def booted_at(proc_stat: str) -> float:
    """When the machine started, in seconds since the epoch, from `/proc/stat`; 0.0: not told. Pure."""
    return next((float(line.split()[1]) for line in proc_stat.splitlines() if line.startswith(_BOOT)), 0.0)
