"""Notices that a configuration file changed, for a process that looks between two steps of its work."""

from __future__ import annotations

import logging
from pathlib import Path

from gateway.config.load import load_config
from gateway.config.types import Config
from gateway.errors import ConfigError

log = logging.getLogger(__name__)


class ConfigChanges:
    """Changes of the file at *path* from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _stamp(path)

    def take(self) -> Config | None:
        """The configuration, if the file has changed to another valid one; an invalid one is logged once."""
        stamp = _stamp(self._path)
        if stamp == self._seen or stamp is None:
            return None
        self._seen = stamp
        try:
            return load_config(self._path)
        except ConfigError as error:
            log.warning("%s; the former configuration stays in force", error)
            return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # it is being replaced; what is in force stays
    return status.st_mtime_ns, status.st_size, status.st_ino
