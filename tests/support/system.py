"""A whole `tracetune up` in processes of its own, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.config import load_config
from gateway.paths import paths_of
from gateway.supervisor.supervisor import Processes
from gateway.traces.store import Store

ROOT = Path(__file__).resolve().parents[2]
UP_WITHIN_S = 60.0
STOP_WITHIN_S = 40.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tracetune(
    *arguments: str, environ: Mapping[str, str] = {}, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One command, as typed."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        cwd=cwd,
        timeout=100,
        check=False,
    )


class System:
    """A running `tracetune up`."""

    def __init__(self, config_path: Path, process: subprocess.Popen[bytes]) -> None:
        self.config_path = config_path
        self.config = load_config(config_path)
        self.paths = paths_of(self.config)
        self.process = process
        self.base_url = f"http://127.0.0.1:{self.config.listen.port}/v1"

    def pids(self) -> dict[str, int | None]:
        """Name to pid of every process under the supervisor."""
        content = (self.paths.state / "processes.json").read_bytes()
        return {entry.name: entry.pid for entry in msgspec.json.decode(content, type=Processes).processes}

    def kill(self, name: str) -> None:
        """SIGKILL one process."""
        pid = self.pids()[name]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """What `tracetune sql` prints."""
        done = tracetune("sql", statement, "--config", str(self.config_path))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def store(self) -> Store:
        return Store.connect(self.config, wait_s=20)

    def wait_rows(
        self, statement: str, enough: Callable[[list[dict[str, Any]]], bool], within_s: float
    ) -> list[dict[str, Any]]:
        """Ask until *enough* says so."""
        deadline = time.monotonic() + within_s
        while True:
            with self.store() as store:
                rows = store.query(statement)
            if enough(rows):
                return rows
            assert time.monotonic() < deadline, f"not within {within_s} s: {statement} -> {rows}"
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(
            path.read_text(errors="replace") for path in (self.paths.data / "logs").glob("*.log")
        )

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_WITHIN_S)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.contextmanager
def running_system(config_path: Path, environ: Mapping[str, str] = {}) -> Iterator[System]:
    """`tracetune up` on *config_path* while the block lasts."""
    log = config_path.parent / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.root", "up", "--config", str(config_path)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            start_new_session=True,
        )
    system = System(config_path, process)
    try:
        _wait_up(system, log)
        yield system
    finally:
        system.stop()


def _wait_up(system: System, log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while b"tracetune is up" not in log.read_bytes():
        assert system.process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.1)
    assert httpx.get(f"{system.base_url}/models", trust_env=False).status_code == 200
