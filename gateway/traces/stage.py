"""What recorder and shipper share as processes: one of each, a clean stop, a report each second."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.errors import OperationError, TracetuneError
from gateway.traces.replace import replace_file

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
ERASED = "erased"  # a reason for dropping that is nobody's trouble


class Report(msgspec.Struct, kw_only=True):
    """The counters of a stage; `errors` is what is wrong now, or None. Ages in seconds, None: no backlog."""

    updated_at: float = 0.0
    written: int = 0
    dropped: dict[str, int] = {}
    torn: int = 0
    quarantined: int = 0
    backlog_bytes: int = 0
    oldest_age_s: float | None = None
    errors: str | None = None


class Reporter:
    """Publishes a stage's report at *path*, at most each second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due_at = 0.0
        self._unwritable = False

    def last(self) -> Report:
        """The report of the process before this one; empty counters where there is none."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Report)
        except (OSError, msgspec.DecodeError):
            return Report()

    def due(self) -> bool:
        return time.monotonic() >= self._due_at

    def publish(self, report: Report) -> None:
        """Replace the published report. A disk that refuses is logged, never raised."""
        self._due_at = time.monotonic() + REPORT_EVERY_S
        report.updated_at = time.time()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, msgspec.json.encode(report))
        except OSError as error:
            if not self._unwritable:
                log.warning("report %s cannot be written: %s", self._path, error.strerror)
            self._unwritable = True
        else:
            self._unwritable = False


def backlog(files: Iterable[tuple[Path, int]]) -> tuple[int, float | None]:
    """The bytes of *files* beyond what is taken of each, and the age of the oldest with some, in seconds.

    None: all is taken.
    """
    waiting = []
    for path, taken in files:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # dropped while we looked
        if status.st_size > taken:
            waiting.append((status.st_mtime, status.st_size - taken))
    if not waiting:
        return 0, None
    return sum(left for _, left in waiting), max(0.0, time.time() - min(waiting)[0])


@contextlib.contextmanager
def only_one(lock: Path, name: str) -> Iterator[None]:
    """Hold the lock file *lock* for the block. Raises OperationError when another process holds it."""
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"{lock} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OperationError(f"another {name} holds {lock}; stop it first") from error
    finally:
        os.close(fd)


def run_stage(prog: str, main: Callable[[Path, threading.Event], None]) -> int:
    """Run *main* with the configuration named on the command line and an event that SIGTERM and SIGINT set.

    Returns the exit code; errors of the world are one line on standard error.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog=f"python -m {prog}")
    parser.add_argument("--config", type=Path, required=True)
    config_path: Path = parser.parse_args().config
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        main(config_path, stop)
    except TracetuneError as error:
        log.error("%s", error)  # noqa: TRY400 -- one line: the traceback of a user's error helps nobody
        return error.exit_code
    return 0
