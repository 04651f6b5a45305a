"""Locks on files, which the kernel releases when their holder closes the file or dies. None waits unasked."""

from __future__ import annotations

import fcntl


def try_lock(fd: int) -> bool:
    """Whether nobody else held the lock of the file *fd*; it is ours from now on, until *fd* is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, *, shared: bool = False) -> None:
    """Take the lock of the file *fd*, however long it is held; *shared* with others that share it."""
    fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def unlock(fd: int) -> None:
    """Give the lock of the file *fd* back before it is closed."""
    fcntl.flock(fd, fcntl.LOCK_UN)
