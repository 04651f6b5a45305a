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
_SENDING = "sending.lock"  # shared by who sends rows to the store, since the last erasure
_SENT = "sending-*.lock"  # by who has done so since before it


@contextlib.contextmanager
def locked(state: Path, *, shared: bool) -> Iterator[None]:
    """Hold the list's lock. Who waits for it alone comes before whoever would share it next."""
    with contextlib.ExitStack() as opened:
        turn = _opened(state, "erasures.turn", opened)
        own = _opened(state, "erasures.lock", opened)
        # Without the first, many readers that overlap would keep a writer out for good.
        lock(turn, shared=shared)
        lock(own, shared=shared)
        unlock(turn)
        yield


@contextlib.contextmanager
def sending(state: Path) -> Iterator[None]:
    """Be one of those that `wait_until_sent` waits for. Entered with the list's lock, it never waits."""
    with contextlib.ExitStack() as opened:
        lock(_opened(state, _SENDING, opened), shared=True)
        yield


def part_with_senders(state: Path) -> None:
    """Tell who sends now from who begins later. To be called with the list's lock alone."""
    with contextlib.suppress(FileNotFoundError):  # nobody has sent anything since
        (state / _SENDING).rename(state / _SENT.replace("*", os.urandom(6).hex()))


def wait_until_sent(state: Path, within_s: float) -> None:
    """Until those that were parted with have done. Raises OperationError where that takes longer."""
    deadline = time.monotonic() + within_s
    for path in state.glob(_SENT):
        with contextlib.ExitStack() as opened:
            fd = _opened(state, path.name, opened)
            while not try_lock(fd):
                if time.monotonic() >= deadline:
                    raise OperationError(
                        f"rows that were being sent to the store have not got there within {within_s:g} s; "
                        "what came after them is kept out already: see that the store answers, and repeat "
                        "the command"
                    )
                time.sleep(_POLL_S)
            path.unlink()


def _opened(state: Path, name: str, opened: contextlib.ExitStack) -> int:
    """A descriptor of the file *name*, closed, and its lock given back, with *opened*."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"the list of erasures in {state} cannot be used: {error.strerror}") from error
    opened.callback(os.close, fd)
    return fd
