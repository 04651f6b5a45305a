"""One gateway process: `python -m gateway.worker --config FILE [--fd N] [--index I]`.

Serves on a listening socket inherited as file descriptor N, else binds its own. SIGTERM and SIGINT: accept no
more, let running requests finish within `listen.drain_s`, close.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from gateway.config.load import DEFAULT_CONFIG, load_config
from gateway.config.secrets import read_secrets
from gateway.config.types import Config
from gateway.control.app import create_control_app
from gateway.data_plane.protocol import GatewayProtocol
from gateway.data_plane.serve import DataPlane
from gateway.errors import TracetuneError
from gateway.metrics import WorkerMetrics, metrics_directory
from gateway.paths import paths_of
from gateway.salt import load_salt
from gateway.state import State
from gateway.supervisor.listener import bind
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.watch import load_table

log = logging.getLogger("tracetune.gateway")

DRAIN_STEP_S = 0.02  # between two looks at whether all that runs has finished
GC_THRESHOLDS = (20_000, 20, 50)  # requests make few cycles; Python's default would look every few requests


class Server(uvicorn.Server):
    """uvicorn's server, which a signal leads to a clean end with exit status 0.

    It waits to be told where uvicorn's looks ten times a second: idle, it sleeps, and a stop begins at once.
    """

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None  # while there is one to be told
        self._told = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def main_loop(self) -> None:
        """Until `stop`."""
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._told.wait()
        self._loop = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait `listen.drain_s` for what runs, then cut off what is left."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:  # noqa: ASYNC110 -- uvicorn's own, which tell nobody
                    await asyncio.sleep(DRAIN_STEP_S)
        except TimeoutError:
            for task in state.tasks:
                task.cancel()
        await self.lifespan.shutdown()
        for connection in list(state.connections):
            assert isinstance(connection, GatewayProtocol), "it is the only protocol"
            connection.cut_off()

    def stop(self) -> None:
        """Accept no more and let what runs finish. May be called from any thread."""
        self._state.draining = True
        self.should_exit = True
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._told.set)


def create_state(
    config_path: Path, config: Config, index: int, environ: Mapping[str, str] = os.environ
) -> State:
    """Everything a worker holds. Raises ConfigError, OperationError."""
    read_secrets(config, environ, config_path)  # raises before anything is put into shared memory
    paths = paths_of(config)
    name = writer_name(index)
    return State(
        config_path=config_path,
        config=config,
        table=load_table(config),
        salt=load_salt(paths.state),
        writer=SegmentWriter(
            paths.segments,
            name,
            max_bytes=config.capture.memory_bytes,
            at_bound=config.capture.at_bound,
        ),
        metrics=WorkerMetrics(metrics_directory(paths), name),
        index=index,
        environ=environ,
    )


def create_server(state: State) -> Server:
    """The server of one worker; `await serve(sockets=[…])` runs it."""
    listen = state.live.config.listen
    plane = DataPlane(state)
    config = uvicorn.Config(
        create_control_app(state),
        http=partial(GatewayProtocol, plane.begin, plane.count_unread, state.sweeper, listen),  # type: ignore[arg-type]  # is called, only
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=listen.keep_alive_s,  # type: ignore[arg-type]  # takes floats too
        timeout_graceful_shutdown=listen.drain_s,  # type: ignore[arg-type]  # takes floats too
    )
    return Server(config, state)


def serve(state: State, listener: socket.socket) -> None:
    """Serve until a signal comes and what was running then has finished, or `listen.drain_s` has passed."""
    host, port = listener.getsockname()[:2]
    log.info("worker %d serves on %s port %d", state.index, host, port)
    server = create_server(state)
    # What is loaded by now stays: the collector need not look through it again and again while requests run.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        uvloop.run(server.serve(sockets=[listener]))
    finally:
        state.close()
    log.info("worker %d stopped", state.index)


def main(argv: list[str] | None = None) -> int:
    """Run one worker; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gateway.worker", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--fd", type=int, help="file descriptor of an inherited listening socket")
    parser.add_argument("--index", type=int, default=0, help="number of this worker, from 0")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        config_path = options.config.resolve()
        config = load_config(config_path)
        state = create_state(config_path, config, options.index)
        listener = bind(config) if options.fd is None else socket.socket(fileno=options.fd)
    except TracetuneError as error:
        sys.stderr.write(f"tracetune: {error}\n")
        return error.exit_code
    os.umask(0o077)
    serve(state, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
