"""SIGTERM and SIGHUP end the demo the way Ctrl-C does, and nothing disturbs it while it cleans up."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """While the block lasts the first SIGTERM or SIGHUP interrupts it as Ctrl-C does; others are ignored.

    Then the process exits with 128 plus the signal's number, once the block has cleaned up.
    """
    came: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        if not came:
            came.append(number)
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a job in the background was started so
                signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)  # so that asyncio cancels its tasks in order

    # One that is ignored, as SIGHUP under nohup, stays so.
    caught = [number for number in ENDING[1:] if signal.getsignal(number) != signal.SIG_IGN]
    before = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    before |= {number: signal.signal(number, interrupt) for number in caught}
    try:
        yield
    except KeyboardInterrupt:
        if not came:
            raise
        sys.exit(128 + came[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While the block lasts no signal that ends is heeded: `timeout` sends two, people press Ctrl-C twice."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
