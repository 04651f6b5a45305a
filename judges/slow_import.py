"""Says on stderr what is being waited for, where importing a judge's file takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from judges.definition import Definition
from judges.load import JudgeSource

TELL_AFTER_S = 3.0


@contextmanager
def told_when_slow(source: Definition, within_s: float) -> Iterator[None]:
    """One line after TELL_AFTER_S: which file is still being imported, and how long it may take in all.

    Nothing is imported for a judge that asks a model.
    """
    if not isinstance(source, JudgeSource):
        yield
        return
    line = f"{source.file}: still being imported for {source.function!r}; it has {within_s:g} s\n"
    timer = threading.Timer(TELL_AFTER_S, sys.stderr.write, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
