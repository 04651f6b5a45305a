"""Workers, recorder, shipper and embedded store as processes that a run may kill and start as it likes.

`tracetune up` starts what was killed by itself; here the run says when, so that nothing is spared a moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ours import KEY_VARIABLE, READY_WITHIN_S, REPOSITORY, STORE_WITHIN_S, configuration
from benchmarks.processes import prepared, wait_answering
from benchmarks.readers import Reading
from benchmarks.types import BenchmarkError
from benchmarks.upstream import BACKLOG, streaming_upstream
from benchmarks.wire import KEY
from benchmarks.work_folder import CONFIGURATION
from gateway.config.load import load_config
from gateway.errors import TracetuneError
from gateway.paths import paths_of
from gateway.traces.store import Store

WORKERS = ("gateway-0", "gateway-1")
STAGES = (*WORKERS, "recorder", "shipper", "store")
CLIENTS = 48
CHUNK_GAP_MS = 1.0
STOP_WITHIN_S = 20.0
_MODULES = {
    "recorder": "gateway.traces.recorder",
    "shipper": "gateway.traces.shipper",
    "store": "gateway.traces.embedded",
}


class Pipeline:
    """The way of a trace in *folder*, from a listening socket of its own to the embedded store."""

    def __init__(self, folder: Path, listener: socket.socket, upstream: int) -> None:
        self.folder = folder
        self.port = int(listener.getsockname()[1])
        self._listener = listener
        self.config_path = folder / CONFIGURATION
        wanted = configuration(folder, self.port, upstream, capture="full", workers=len(WORKERS))
        self.config_path.write_text(yaml.safe_dump(wanted))
        self.config = load_config(self.config_path)
        self.paths = paths_of(self.config)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._store: Store | None = None

    def start(self, name: str) -> None:
        """Start *name*, without waiting for it."""
        command = [
            sys.executable,
            "-m",
            _MODULES.get(name, "gateway.worker"),
            "--config",
            str(self.config_path),
        ]
        fds: tuple[int, ...] = ()
        if name in WORKERS:
            fds = (self._listener.fileno(),)
            command += ["--index", str(WORKERS.index(name)), "--fd", str(fds[0])]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, KEY_VARIABLE: KEY, "PYTHONPATH": str(REPOSITORY)},
                pass_fds=fds,
                start_new_session=True,
                preexec_fn=prepared(None),  # noqa: PLW1509 -- no thread runs while this forks
            )

    def kill(self, name: str) -> None:
        """SIGKILL *name*."""
        process = self._running.pop(name)
        process.kill()
        process.wait()
        if name == "store" and self._store is not None:
            self._store.close()
            self._store = None

    def read(self, ids: Path, *, rate: float, seed: int) -> None:
        """Start the clients, which append the ids that they read to *ids*."""
        asked = Reading(port=self.port, clients=CLIENTS, rate=rate, seed=seed, ids=str(ids))
        text = json.dumps({name: getattr(asked, name) for name in asked.__struct_fields__})
        with (self.folder / "readers.log").open("ab") as log:
            self._running["readers"] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.readers", text],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
                preexec_fn=prepared(None),  # noqa: PLW1509 -- no thread runs while this forks
            )

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the store. Raises TracetuneError while it is away."""
        if self._store is None:
            self._store = Store.connect(self.config, {}, wait_s=STORE_WITHIN_S)
        return self._store.query(sql)

    def report(self, stage: str) -> dict[str, Any]:
        """What recorder or shipper last said of itself; empty before the first time."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.paths.state / f"{stage}.json").read_bytes())
            return found
        return {}

    def ended(self) -> list[str]:
        """Processes that ended and that nobody killed."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def wait_up(self) -> None:
        """Until a request is answered and the store answers. Raises BenchmarkError."""
        process = self._running[WORKERS[0]]
        wait_answering(process, self.port, {}, self.folder / f"{WORKERS[0]}.log", READY_WITHIN_S)
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                self.query("SELECT count() FROM traces")
            except TracetuneError as error:
                if time.monotonic() > deadline:
                    raise BenchmarkError(
                        f"the store is not up within {READY_WITHIN_S:.0f} s: {error}"
                    ) from error
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        """Stop what runs, the clients first and the store last."""
        if self._store is not None:
            self._store.close()
        for name in ("readers", *STAGES):
            process = self._running.pop(name, None)
            if process is None:
                continue
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_WITHIN_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def pipeline(folder: Path) -> Iterator[Pipeline]:
    """A pipeline in *folder* with an upstream behind it, up, until the end of the block."""
    with (
        streaming_upstream(folder / "upstream", None, CHUNK_GAP_MS) as upstream,
        socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener,
    ):
        running = Pipeline(folder, listener, upstream)
        try:
            for name in reversed(STAGES):
                running.start(name)
            running.wait_up()
            yield running
        finally:
            running.stop()
