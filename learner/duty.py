"""One thing the learner process does again and again, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gateway.config import Config, load_config
from gateway.errors import ConfigError, TracetuneError

TICK_S = 1.5
REST = 4.0  # times as long as a tick took: at most a fifth of a core, however much there is to do

log = logging.getLogger("learner")


class Duty(threading.Thread):
    """Calls *tick* with the configuration in force until *stopped*; waits while the world is away.

    A trouble is logged when it comes, when it changes and when it goes, and the next tick tries again. A bug
    ends the thread with its traceback, which the process takes as its own end.
    """

    def __init__(
        self, name: str, config_path: Path, stopped: threading.Event, tick: Callable[[Config], None]
    ) -> None:
        super().__init__(name=name, daemon=True)  # a call that hangs must not keep the process from ending
        self._config_path = config_path
        self._config = load_config(config_path)
        self._read_ns = _changed_ns(config_path)
        self._stopped = stopped
        self._tick = tick
        self._trouble: str | None = None

    def run(self) -> None:
        took_s = 0.0
        while not self._stopped.wait(max(TICK_S, REST * took_s)):
            began = time.monotonic()
            self._reload()
            self._once()
            took_s = time.monotonic() - began

    def _once(self) -> None:
        try:
            self._tick(self._config)
        except TracetuneError as error:
            if self._trouble != str(error):
                log.warning("%s: %s", self.name, error)
            self._trouble = str(error)
            return
        if self._trouble is not None:
            log.info("%s: back to normal", self.name)
        self._trouble = None

    def _reload(self) -> None:
        """Take up an edited configuration; go on with the former one while the file is not valid."""
        changed = _changed_ns(self._config_path)
        if changed == self._read_ns:
            return
        self._read_ns = changed
        try:
            self._config = load_config(self._config_path)
        except ConfigError as error:
            log.warning("%s goes on with the former configuration: %s", self.name, error)


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # gone for a moment while an editor replaces it
