"""Children of the test's process, to be killed at any moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def forked(work: Callable[[], None]) -> int:
    """A child that runs *work* for ever, until it is killed."""
    child = os.fork()
    if child:
        return child
    try:
        while True:
            work()
    finally:
        os._exit(1)


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
