"""The judges' process in `tracetune up`: `python -m judges.runner --config FILE`. Runs until told to stop.

Each judge of the configuration follows the store in a thread of its own. An edited judge is picked up by its
follower; an edited configuration is picked up here, an invalid one is reported and ignored.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from gateway.config import Config, load_config
from gateway.errors import ConfigError, TracetuneError
from gateway.traces.store import Store
from judges.follow import JudgeFollower

WATCH_CONFIG_S = 1.0
STOP_WITHIN_S = 4.0

_log = logging.getLogger("tracetune.judges")


class Followers:
    """One running follower for each judge of *config*."""

    def __init__(self, config: Config) -> None:
        self._stop = threading.Event()
        self.failed = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(JudgeFollower(config, judge, lambda: Store.connect(config), self._stop),),
                name=f"judge-{judge.name}",
                daemon=True,  # a judge that hangs while it is imported must not hold up the end
            )
            for judge in config.judges
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all of them, within STOP_WITHIN_S; what they judged until then is stored."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_WITHIN_S / max(1, len(self._threads)))

    def _run(self, follower: JudgeFollower) -> None:
        try:
            follower.run()
        except Exception:  # noqa: BLE001 -- a thread's end would go unseen; the process ends instead
            _log.exception("a bug in the judge runner; it ends, to be started again")
            self.failed.set()


def main(config_path: Path) -> int:
    """Judge until SIGTERM or SIGINT. Returns 0, or 1 after a bug of ours. Raises ConfigError."""
    config = load_config(config_path)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not config.judges:
        _log.info("no judges are configured")
    changed_at = _modified(config_path)
    followers = Followers(config)
    try:
        while not stop.wait(WATCH_CONFIG_S):
            if followers.failed.is_set():
                return 1
            if (modified := _modified(config_path)) != changed_at:
                changed_at = modified
                fresh = _reloaded(config_path, config)
                if judging(fresh) != judging(config):
                    followers.stop()
                    followers = Followers(fresh)
                config = fresh
    finally:
        followers.stop()
    return 0


def _reloaded(config_path: Path, former: Config) -> Config:
    try:
        return load_config(config_path)
    except ConfigError as error:
        _log.error("%s; the former configuration stays in force", error)
        return former


def judging(config: Config) -> tuple[object, ...]:
    """What of *config* judging depends on: where models are asked, also which may see whose text."""
    asking = any(judge.asked for judge in config.judges)
    return config.judges, config.store, (config.upstreams, config.routes) if asking else ()


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _run_as_module() -> int:
    parser = argparse.ArgumentParser(prog="python -m judges.runner")
    parser.add_argument("--config", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for client in ("httpx", "httpx2", "openai"):
        logging.getLogger(client).setLevel(logging.WARNING)  # a line for each call
    try:
        return main(parser.parse_args().config)
    except TracetuneError as error:
        _log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_run_as_module())
