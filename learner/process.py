"""`python -m learner.process --config FILE`: keeps snapshots loaded, decides rollouts, learns by itself.

One for each data directory: a lock keeps a second one from deciding too. Nothing here is on the way of a
request; while the gateway or the store is away it waits, and says so once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from gateway.config import Config, load_config
from gateway.errors import ConfigError, StoreError, TracetuneError
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.autopilot import Autopilot
from learner.files import locked
from learner.publish import ensure_loaded, publish
from learner.rollout.control import Control
from learner.rollout.controller import step
from learner.rollout.start import start_rollout

TICK_S = 1.5
REST = 4.0  # times as long as a tick took: at most a fifth of a core, however much evidence there is
STORE_WAIT_S = 60.0  # for an embedded store that is just starting
LOCK = "controller.lock"

log = logging.getLogger("learner")


class Learner:
    """The three duties, one after the other at every tick; what fails in one does not keep the others."""

    def __init__(self, config_path: Path, config: Config, store: Store, control: Control) -> None:
        self.config = config
        self._config_path = config_path
        self._read_ns = _changed_ns(config_path)
        self._store = store
        self._control = control
        self._autopilot = Autopilot(config_path, paths_of(config).state)
        self._troubles: dict[str, str] = {}

    def tick(self) -> None:
        """Do what is due. Raises nothing that a user or the world can cause."""
        self._reload()
        with self._telling("rollouts"):
            step(self.config, self._store, self._control, _now)
        with self._telling("snapshots"):
            ensure_loaded(self.config, self._control.routes())
        with self._telling("autopilot"):
            self._autopilot.tick(self.config, self._store, self._control, self._start, _now())

    def stop(self) -> None:
        """End a run under way at its checkpoint."""
        self._autopilot.stop()

    def _start(self, route: str, snapshot: str, why: str) -> None:
        start_rollout(
            self.config,
            self._store,
            self._control,
            lambda chosen, upstream: publish(self.config, chosen, upstream),
            route=route,
            snapshot=snapshot,
            share=None,
            who="autopilot",
            why=why,
            now=_now(),
        )

    def _reload(self) -> None:
        changed = _changed_ns(self._config_path)
        if changed == self._read_ns:
            return
        self._read_ns = changed
        try:
            self.config = load_config(self._config_path)
        except ConfigError as error:
            log.warning("going on with the former configuration: %s", error)

    @contextlib.contextmanager
    def _telling(self, duty: str) -> Iterator[None]:
        """Log a trouble when it comes, when it changes and when it goes; the next tick tries again."""
        try:
            yield
        except TracetuneError as error:
            if self._troubles.get(duty) != str(error):
                log.warning("%s: %s", duty, error)
            self._troubles[duty] = str(error)
            return
        if self._troubles.pop(duty, None) is not None:
            log.info("%s: back to normal", duty)


def main(config_path: Path, stopped: threading.Event | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises TracetuneError when it cannot start."""
    from gateway.control.client import ControlClient

    stopped = stopped or _stopped_by_signal()
    config = load_config(config_path)
    with locked(paths_of(config).state / LOCK, holder="a learner process is"):
        store = _connected(config, stopped.is_set)
        if store is None:
            return 0
        with store:
            learner = Learner(config_path, config, store, ControlClient(config, os.environ))
            log.info("watching %d routes", len(config.learner))
            took_s = 0.0
            while not stopped.wait(max(TICK_S, REST * took_s)):
                began = time.monotonic()
                learner.tick()
                took_s = time.monotonic() - began
            learner.stop()
    return 0


def _connected(config: Config, stopped: Callable[[], bool]) -> Store | None:
    """The store once it answers; None when told to stop before. Raises StoreError after STORE_WAIT_S."""
    deadline = _now().timestamp() + STORE_WAIT_S
    while not stopped():
        try:
            return Store.connect(config, wait_s=1.0)
        except StoreError:
            if _now().timestamp() > deadline:
                raise
    return None


def _stopped_by_signal() -> threading.Event:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # gone for a moment while an editor replaces it


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        sys.exit(main(parser.parse_args().config))
    except TracetuneError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
