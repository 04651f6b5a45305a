"""The two fixed upstreams: one as cheap as possible for buffered answers, one that streams."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.nginx import fixed_configuration, started_nginx
from benchmarks.processes import free_port, started, wait_answering

REPOSITORY = Path(__file__).resolve().parents[1]
READY_WITHIN_S = 20.0
BACKLOG = 4096


@contextlib.contextmanager
def buffered_upstream(folder: Path, core: int) -> Iterator[int]:
    """The port of an nginx that answers a fixed 1 KB. Raises BenchmarkError."""
    port = free_port()
    with started_nginx(fixed_configuration(folder, port), folder, port, core, is_load=True):
        yield port


@contextlib.contextmanager
def streaming_upstream(folder: Path, core: int | None, gap_ms: float) -> Iterator[int]:
    """The port of a server that streams 64 chunks, *gap_ms* apart. Raises BenchmarkError."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        port = int(listener.getsockname()[1])
        command = [sys.executable, "-m", "benchmarks.upstream_server"]
        command += ["--fd", str(listener.fileno()), "--gap-ms", str(gap_ms)]
        fds = (listener.fileno(),)
        with started(command, core=core, log=log, is_load=True, cwd=REPOSITORY, pass_fds=fds) as process:
            wait_answering(process, port, {}, log, READY_WITHIN_S)
            yield port
