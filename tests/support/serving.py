"""`tracetune serve` as a process on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_WITHIN_S = 90


class Serving:
    """A running server: its base URL, what it logged, and its process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = self._wait_for_url()

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=10)

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            found = re.search(r"at (http://\S+)/v1, ready in", self.log.read_text())
            if found:
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not ready within {START_WITHIN_S} s: {self.log.read_text()}")


def serve_command(model: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "gateway.cli.root", "serve", "--model", str(model), "--port", "0", *options]


@contextmanager
def serving(model: Path, folder: Path, *options: str) -> Iterator[Serving]:
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            serve_command(model, "--threads", "1", *options),
            stderr=output,
            stdout=output,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
    try:
        yield Serving(process, log)
    finally:
        process.kill()
        process.wait()
