"""The embedded store as a running thing: lock, engine, HTTP on loopback, migrations, a clean stop."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from gateway.config.types import Config
from gateway.errors import StoreError, StoreInUseError
from gateway.file_lock import try_lock
from gateway.paths import paths_of
from gateway.traces.embedded.app import StoreApp
from gateway.traces.embedded.engine import ClickHouseError, Engine
from gateway.traces.embedded.turns import INSERTS_AT_ONCE, STATEMENTS_AT_ONCE, Turns
from gateway.traces.endpoint import Endpoint, endpoint_file, ensure_token, read_endpoint, write_endpoint
from gateway.traces.layout import layout_of
from gateway.traces.migrate import migrate
from gateway.traces.retention import EVERY_S, apply_retention, keep_retention
from gateway.traces.store import Store

MAX_CONNECTIONS = 1024  # idle ones too; what they ask is bounded by MAX_STATEMENTS
_GRACE_S = 1.5  # for statements under way, before they are killed
_KILL_S = 1.5  # for killed statements, before they are abandoned
_START_S = 10.0
_log = logging.getLogger(__name__)


class EmbeddedServer:
    """Owns the embedded store of *config* between `start` and `stop`; also a context manager."""

    def __init__(self, config: Config, *, on_death: Callable[[], None] = lambda: None) -> None:
        """*on_death* is called from another thread when serving ends without `stop`."""
        self._config = config
        self._directory = paths_of(config).store
        self._on_death = on_death
        self._stack = contextlib.ExitStack()
        self._statements = Turns("statements", STATEMENTS_AT_ONCE)
        self._inserts = Turns("inserts", INSERTS_AT_ONCE)

    def start(self) -> None:
        """Serve, migrated. Raises StoreInUseError, or OperationError: the directory cannot be used."""
        try:
            self._stack.enter_context(_owned(self._directory))
            token = ensure_token(self._directory)
            self._engine = Engine(self._directory / "db", memory_bytes=self._config.store.memory_bytes)
            self._stack.callback(self._engine.close)
            listener = _listen(read_endpoint(self._directory))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._stack.callback(endpoint_file(self._directory).unlink, missing_ok=True)
            turns = {"statements": self._statements, "inserts": self._inserts}
            self._serve(StoreApp(self._engine, token=token, **turns), listener)
            self._stack.callback(self._end_serving)
            settings = self._config.store
            with Store.at(url, token) as store:
                for name in migrate(store, layout=layout_of(settings)):
                    _log.info("applied migration %s", name)
                apply_retention(store, settings.retention_days, datetime.now(UTC), layout=layout_of(settings))
            self._keep_retention(url, token)
            write_endpoint(self._directory, Endpoint(url, os.getpid()))
        except OSError as error:
            self._stack.close()
            raise StoreError(f"{self._directory}: the embedded store cannot start: {error}") from error
        except BaseException:
            self._stack.close()
            raise

    def stop(self) -> None:
        """Finish what is under way within `_GRACE_S`, kill the rest, let go of the directory."""
        self._stack.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _keep_retention(self, url: str, token: str) -> None:
        stopped = threading.Event()
        self._stack.callback(stopped.set)
        keeping = (lambda: Store.at(url, token), self._config.store, stopped, EVERY_S)
        threading.Thread(target=keep_retention, args=keeping, name="retention", daemon=True).start()

    def _serve(self, app: StoreApp, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(_GRACE_S + _KILL_S),
            timeout_keep_alive=75,
        )
        # Its only lines at these levels are about bodies that we break off on purpose, and "started".
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listener,), name="store-http", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._uvicorn.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)  # uvicorn offers no event for it
        if not self._uvicorn.started:
            raise StoreError(f"{self._directory}: the embedded store did not begin to serve")

    def _run(self, listener: socket.socket) -> None:
        self._uvicorn.run(sockets=[listener])
        if not self._uvicorn.should_exit:
            self._on_death()

    def _end_serving(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(_GRACE_S)
        if self._thread.is_alive():
            with contextlib.suppress(ClickHouseError):  # what it could not kill is abandoned below
                self._engine.kill()
            self._thread.join(_KILL_S)
        for turns in (self._statements, self._inserts):
            turns.close(wait=not self._thread.is_alive())


@contextlib.contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Hold the lock of *directory*. Raises StoreInUseError naming the process that holds it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "lock").open("a+", encoding="ascii") as lock:
        if not try_lock(lock.fileno()):
            lock.seek(0)
            raise StoreInUseError(
                f"{directory}: the embedded store is in use by process {lock.read() or 'unknown'}; "
                "stop it, or give this one another store.url"
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _listen(former: Endpoint | None) -> socket.socket:
    """A listening loopback socket, on the former owner's port where it is still free."""
    port = int(former.url.rpartition(":")[2]) if former else 0
    for candidate in (port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError:
            listener.close()
            if candidate == 0:
                raise
        else:
            return listener
    raise AssertionError("unreachable: port 0 binds or raises")
