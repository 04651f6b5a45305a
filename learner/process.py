"""`python -m learner.process --config FILE`: decides rollouts, keeps snapshots loaded, learns by itself.

One for each data directory: a lock keeps a second one from deciding too. The three duties have a thread each,
so that a rollback never waits for a server that is loading. Nothing here is on the way of a request.
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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway.config import Config, load_config
from gateway.control.client import ControlClient
from gateway.errors import StoreError, TracetuneError
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.autopilot import Autopilot
from learner.duty import Duty
from learner.files import locked
from learner.publish import ensure_loaded, publish
from learner.rollout.controller import step
from learner.rollout.start import start_rollout

STORE_WAIT_S = 60.0  # for an embedded store that is just starting
STOP_WITHIN_S = 2.0  # for each duty to end its tick
LOCK = "controller.lock"

log = logging.getLogger("learner")


def main(config_path: Path, stopped: threading.Event) -> int:
    """Run until *stopped*; the exit code. Raises TracetuneError when it cannot start."""
    config = load_config(config_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(paths_of(config).state / LOCK, holder="a learner process is"))
        stores = [_connected(config, stopped), _connected(config, stopped)]
        if None in stores:
            return 0
        deciding, learning = (stack.enter_context(store) for store in stores if store is not None)
        autopilot = Autopilot(config_path, paths_of(config).state)
        stack.callback(autopilot.stop)
        duties = [
            Duty("rollouts", config_path, stopped, lambda config: _decide(config, deciding)),
            Duty("snapshots", config_path, stopped, _keep_loaded),
            Duty("autopilot", config_path, stopped, lambda config: _learn(config, learning, autopilot)),
        ]
        for duty in duties:
            duty.start()
        log.info("deciding rollouts of %d routes, learning on %d", len(config.routes), len(config.learner))
        while not stopped.wait(1.0):
            if not all(duty.is_alive() for duty in duties):
                return 1  # a bug of ours, with its traceback in the log; the supervisor starts us anew
        for duty in duties:
            duty.join(STOP_WITHIN_S)
    return 0


def _decide(config: Config, store: Store) -> None:
    with ControlClient(config, os.environ) as control:
        step(config, store, control, _now)


def _keep_loaded(config: Config) -> None:
    with ControlClient(config, os.environ) as control:
        routes = control.routes()
    ensure_loaded(config, routes)


def _learn(config: Config, store: Store, autopilot: Autopilot) -> None:
    with ControlClient(config, os.environ) as control:

        def start(route: str, snapshot: str, why: str) -> None:
            start_rollout(
                config,
                store,
                control,
                lambda chosen, upstream: publish(config, chosen, upstream),
                route=route,
                snapshot=snapshot,
                share=None,
                who="autopilot",
                why=why,
                now=_now(),
            )

        autopilot.tick(config, store, control, start, _now())


def _connected(config: Config, stopped: threading.Event) -> Store | None:
    """The store once it answers; None when stopped before. Raises StoreError after STORE_WAIT_S."""
    deadline = time.monotonic() + STORE_WAIT_S
    while not stopped.is_set():
        try:
            return Store.connect(config, wait_s=1.0)
        except StoreError:
            if time.monotonic() > deadline:
                raise
    return None


def _now() -> datetime:
    return datetime.now(UTC)


def _on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ended = threading.Event()
    _on_signals(ended.set)
    try:
        sys.exit(main(parser.parse_args().config, ended))
    except TracetuneError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
