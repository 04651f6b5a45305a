"""A gateway worker as a process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.config.load import load_config
from gateway.paths import paths_of
from gateway.traces.segments import SegmentReader
from gateway.traces.types import CapturedTrace
from tests.support.request_path import chat, wait_until

REPOSITORY = Path(__file__).parents[2]


class Worker:
    """One worker process on a socket of the test's own."""

    def __init__(self, directory: Path, config: dict[str, Any], **environ: str) -> None:
        self.path = directory / "tracetune.yaml"
        self.path.write_text(yaml.safe_dump(config))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.environ = {**os.environ, **environ}
        self.log = directory / "worker.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, index: int = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gateway.worker", "--config", str(self.path), "--index", str(index)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--fd", str(self.listener.fileno())],
                cwd=REPOSITORY,
                env=self.environ,
                stderr=log,
                pass_fds=[self.listener.fileno()],
            )
        self.processes.append(process)
        wait_until(lambda: process.poll() is not None or f"worker {index} serves" in self.log.read_text(), 20)
        return process

    def traces(self) -> list[CapturedTrace]:
        reader = SegmentReader(paths_of(load_config(self.path)).segments)
        batches = [reader.read(path, 0) for path in reader.segments()]
        records = [record.captured for batch in batches if batch for record in batch.records]
        return [record for record in records if isinstance(record, CapturedTrace)]

    def ask(self, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=chat(**fields), timeout=20)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.listener.close()
        shutil.rmtree(paths_of(load_config(self.path)).segments, ignore_errors=True)
