"""An embedded store for tests: a real one, in a process of its own, on a temporary directory.

`from tests.support.store import store_config, started_store` in a module of tests; or the fixtures
`embedded_config` (one running store for the whole session) and `clean_store` (connected to it, emptied) of
tests/conftest.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.config import Config, load_config
from gateway.traces.store import Store
from gateway.traces.types import Trace
from tests.support.capture import TRACE

STOP_S = 10.0
READY_S = 30.0
_YAML = """\
listen: {{host: 127.0.0.1, port: 0}}
store: {{url: "embedded:{data}"}}
upstreams:
  - {{name: up, base_url: "http://127.0.0.1:9/v1", default: true}}
routes:
  - model: support-bot
    variants: [{{name: stable, upstream: up, model: m}}]
"""


def write_config(directory: Path, extra: str = "") -> Path:
    """A minimal configuration file in *directory*, its data under *directory*/data. *extra* is YAML."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "tracetune.yaml"
    path.write_text(_YAML.format(data=directory / "data") + extra, encoding="utf-8")
    return path


def store_config(directory: Path, extra: str = "") -> Config:
    """The same, loaded."""
    return load_config(write_config(directory, extra))


class StoreProcess:
    """`python -m gateway.traces.embedded` on a configuration file, with its log lines."""

    def __init__(self, config_path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.traces.embedded", "--config", str(config_path)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        """Until it has said "ready". Raises AssertionError with its log where it does not."""
        with self._said:
            ready = self._said.wait_for(
                lambda: "ready" in self.lines or not self._reader.is_alive(), timeout=READY_S
            )
        assert ready, "not ready in time"
        assert "ready" in self.lines, "\n".join(self.lines)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        finally:
            self.kill()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._said:
                    self.lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._said.notify_all()


@contextlib.contextmanager
def started_store(config_path: Path) -> Iterator[StoreProcess]:
    """The embedded store of *config_path*, ready, until the end of the block."""
    process = StoreProcess(config_path)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def empty(store: Store) -> None:
    """Remove every row, and with them what deduplication remembers."""
    rows = store.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' "
        "AND name != 'schema_migrations'"
    )
    for row in rows:
        store.command(f"TRUNCATE TABLE {row['name']}")


def a_trace(**changes: Any) -> Trace:
    """A finished trace; its id and time differ from call to call."""
    values: dict[str, Any] = {
        **TRACE,
        "trace_id": f"0199-{time.time_ns():x}-{os.urandom(4).hex()}",
        "started_at": datetime.now(UTC),
        "finish_reason": "stop",
        "attempts": '[{"upstream":"up","server":"http://127.0.0.1:9/v1","model":"m","started_ms":0,'
        '"ended_ms":12,"status":200,"error":null}]',
        "tokens_in": 10,
        "tokens_cached": 0,
        "tokens_out": 5,
        "usage": None,
        "cost_usd": 0.001,
        "request": '{"messages":[{"role":"user","content":"hello"}]}',
        "response": '{"choices":[{"message":{"role":"assistant","content":"hi"}}]}',
    }
    return Trace(**{**values, **changes})
