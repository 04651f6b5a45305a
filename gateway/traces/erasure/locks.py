"""The locks of the list of erasures, in the data directory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import OperationError
from gateway.file_lock import lock, try_lock, unlock

_POLL_S = 0.05


@contextlib.contextmanager
def locked(state: Path, what: str, *, shared: bool, within_s: float | None = None) -> Iterator[None]:
    """Hold a lock of the list. Who waits for it alone comes before whoever would share it next.

    Raises OperationError where it is not to be had *within_s*; None: however long that takes.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        turn = os.open(state / f"{what}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        own = os.open(state / f"{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"the list of erasures in {state} cannot be used: {error.strerror}") from error
    try:
        # Without the first, many readers that overlap would keep a writer out for good.
        lock(turn, shared=shared)
        if within_s is None:
            lock(own, shared=shared)
        else:
            _lock_within(own, within_s)
        unlock(turn)
        yield
    finally:
        os.close(turn)
        os.close(own)


def _lock_within(fd: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not try_lock(fd):
        if time.monotonic() >= deadline:
            raise OperationError(
                f"rows that were being sent to the store have not got there within {seconds:g} s; what came "
                "after them is kept out already: see that the store answers, and repeat the command"
            )
        time.sleep(_POLL_S)
