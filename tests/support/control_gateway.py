"""Real worker processes on one real socket, with a configuration of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from gateway.config.load import load_config
from gateway.paths import paths_of
from gateway.traces.segments import SegmentReader
from gateway.traces.types import Captured

REPOSITORY = Path(__file__).parents[2]
ADMIN_KEY = "admin-key-of-the-test"

YAML = """
listen: {{host: 127.0.0.1, port: {port}, workers: 2}}
upstreams:
  - name: openai
    base_url: http://127.0.0.1:9/v1  # nobody listens there
    retries: {{max: 0}}
    prices: [{{model: big, input: 0.15, output: 0.6}}]
  - {{name: local, base_url: "http://127.0.0.1:9/v1", retries: {{max: 0}}, price_per_hour: 1.2}}
routes:
  - model: bot
    variants: [{{name: stable, upstream: openai, model: big}}]
    fallbacks: [{{upstream: local, model: small}}]
"""

# A connection for each request, so that the kernel picks the worker; one client, because making one is dear.
web = httpx.Client(timeout=10, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)


class Gateway:
    """Workers of one data directory. `seen` reads the captured records of all of them."""

    def __init__(self, directory: Path, yaml: str, environ: dict[str, str]) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(128)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_path = directory / "tracetune.yaml"
        self.config_path.write_text(yaml.format(port=self.port))
        self.environ = environ
        self.paths = paths_of(load_config(self.config_path))
        self.log = directory / "workers.log"
        self.workers: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, index: int) -> None:
        script = [sys.executable, "-m", "gateway.worker", "--config", str(self.config_path)]
        with self.log.open("ab") as log:
            self.workers[index] = subprocess.Popen(
                [*script, "--fd", str(self.socket.fileno()), "--index", str(index)],
                cwd=REPOSITORY,
                pass_fds=[self.socket.fileno()],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **self.environ},
                stderr=log,
            )

    def edit(self, change: Callable[[str], str]) -> None:
        text = self.config_path.read_text()
        assert change(text) != text
        self.config_path.write_text(change(text))

    def infer(self, session: str) -> httpx.Response:
        """A request that no upstream answers."""
        body = {"model": "bot", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"x-tracetune-session": session}
        return web.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    def hashes(self) -> dict[int, str]:
        """The table hash in force at each worker, asked until every one has answered."""
        found: dict[int, str] = {}
        deadline = time.monotonic() + 20
        while set(found) != set(self.workers):
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                answer = web.get(f"{self.url}/readyz").json()
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            found[answer["worker"]] = answer["table_hash"]
        return found

    def seen(self, kind: type[Captured]) -> list[Captured]:
        reader = SegmentReader(self.paths.segments)
        batches = [reader.read(path, 0) for path in reader.segments()]
        records = [record.captured for batch in batches if batch for record in batch.records]
        return [captured for captured in records if isinstance(captured, kind)]

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            try:
                worker.wait(5)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.socket.close()
        shutil.rmtree(self.paths.segments, ignore_errors=True)


def eventually(check: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return check()


def running(directory: Path, yaml: str = YAML, workers: int = 1, **environ: str) -> Iterator[Gateway]:
    gateway = Gateway(directory, yaml, environ)
    try:
        for index in range(workers):
            gateway.start(index)
        gateway.hashes()
        yield gateway
    finally:
        gateway.stop()
