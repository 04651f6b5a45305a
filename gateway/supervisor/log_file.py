"""The log file of one process: rotated, and never a reason to fail."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from gateway.errors import OperationError

LOG_BYTES = 10_000_000  # per process, and one older file beside it

log = logging.getLogger("tracetune.up")


class LogFile:
    """Takes lines. On a disk that takes none they are dropped, which is said once."""

    def __init__(self, path: Path) -> None:
        """Open *path* to append to. Raises OperationError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Handler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
        except OSError as error:
            raise OperationError(f"{path} cannot be written: {error.strerror}; see store.url") from error

    def write(self, line: str) -> None:
        """Append *line*, where the disk takes it."""
        self._handler.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Let go of the file; what the disk did not take is dropped."""
        try:
            self._handler.close()
        except OSError as error:
            self._handler.tell(error)


class _Handler(RotatingFileHandler):
    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.tell(error)

    def tell(self, error: OSError) -> None:
        if not self._told:
            log.warning("lines for %s are dropped: %s", self.baseFilename, error.strerror)
        self._told = True
