"""What recorder and shipper share as processes: one of each, a clean stop, a report each second."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from gateway.errors import OperationError, TracetuneError
from gateway.file_lock import try_lock
from gateway.traces.spool.replace import replace_file

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
PACE_OVER_S = 10.0
ERASED = "erased"  # a reason for dropping that is nobody's trouble


class Report(msgspec.Struct, kw_only=True):
    """The counters of a stage; `errors` is what is wrong now, or None. Ages in seconds, None: no backlog.

    `written_per_s` is over the last PACE_OVER_S.
    """

    updated_at: float = 0.0
    written: int = 0
    written_per_s: float = 0.0
    dropped: dict[str, int] = {}
    torn: int = 0
    quarantined: int = 0
    backlog_bytes: int = 0
    oldest_age_s: float | None = None
    errors: str | None = None


class Pace:
    """How many a second, over the last PACE_OVER_S, from a counter that is looked at now and then. Pure."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, count: int) -> float:
        """The pace at *now*, where the counter is at *count*; 0.0 before it was looked at twice."""
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] >= PACE_OVER_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0


class Reporter:
    """Publishes a stage's report at *path*, at most each second; at *spare* while the disk refuses it."""

    def __init__(self, path: Path, spare: Path | None = None) -> None:
        self._path = path
        self._spare = spare
        self._due_at = 0.0
        self._unwritable = False
        self._pace = Pace()

    def last(self) -> Report:
        """The last report, of whichever process; empty counters where there is none."""
        found = [report for path in (self._path, self._spare) if path and (report := _read_report(path))]
        return max(found, key=lambda report: report.updated_at, default=Report())

    def due(self) -> bool:
        return time.monotonic() >= self._due_at

    def publish(self, report: Report) -> None:
        """Replace the published report. A disk that refuses is logged, never raised."""
        now = time.monotonic()
        self._due_at = now + REPORT_EVERY_S
        report.updated_at = time.time()
        report.written_per_s = round(self._pace.at(now, report.written), 1)
        content = msgspec.json.encode(report)
        try:
            _publish(self._path, content)
        except OSError as error:
            if not self._unwritable:
                log.warning("report %s cannot be written: %s", self._path, error.strerror)
            self._unwritable = True
            if self._spare is not None:
                with contextlib.suppress(OSError):  # memory that is full too; it was said above
                    _publish(self._spare, content)
        else:
            self._unwritable = False


def _publish(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def _read_report(path: Path) -> Report | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None


@contextlib.contextmanager
def only_one(lock: Path, name: str) -> Iterator[None]:
    """Hold the lock file *lock* for the block. Raises OperationError when another process holds it."""
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"{lock} cannot be opened: {error.strerror}") from error
    try:
        if not try_lock(fd):
            raise OperationError(f"another {name} holds {lock}; stop it first")
        yield
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
