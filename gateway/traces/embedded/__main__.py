"""`python -m gateway.traces.embedded --config FILE`: the process that owns the embedded store."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from gateway.config import load_config
from gateway.errors import ConfigError, TracetuneError
from gateway.traces.embedded.server import EmbeddedServer

_log = logging.getLogger("gateway.traces.embedded")


def main(config_path: Path) -> int:
    """Own and serve the embedded store of *config_path* until SIGTERM or SIGINT. Returns the exit code."""
    stopped = threading.Event()
    asked = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        asked.set()
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        config = load_config(config_path)
        if not config.store.embedded:
            raise ConfigError(f"{config_path}: store.url is not embedded: there is no embedded store to run")
        with EmbeddedServer(config, on_death=stopped.set):
            _log.info("ready")
            stopped.wait()
    except TracetuneError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0 if asked.is_set() else 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m gateway.traces.embedded")
    parser.add_argument("--config", type=Path, required=True)
    code = main(parser.parse_args().config)
    # Threads of abandoned statements would hold an ordinary exit up; everything is closed or given up by now.
    logging.shutdown()
    os._exit(code)
