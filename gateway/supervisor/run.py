"""What `tracetune up` and `tracetune gateway` share: check, prepare the folders, bind, supervise."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.config.load import load_config
from gateway.config.secrets import read_secrets
from gateway.config.types import Config
from gateway.errors import OperationError
from gateway.paths import Paths, paths_of
from gateway.supervisor.listener import bind, check_admin_address
from gateway.supervisor.plan import ProcessPlan
from gateway.supervisor.shared_memory import release
from gateway.supervisor.supervisor import Supervisor


def supervise(
    config_path: Path,
    plan: Callable[[Config, Path], list[ProcessPlan]],
    *,
    echo: bool,
    announce: str,
    command: str = "up",
) -> None:
    """Run the processes of *plan* for *command* until SIGTERM or SIGINT, then stop them all.

    Raises ConfigError before anything starts, OperationError for a busy port, a second owner of the data
    directory, or a process that does not come up.
    """
    config_path = config_path.resolve()
    config = load_config(config_path)
    read_secrets(config, os.environ, config_path)
    paths = paths_of(config)
    check_models(config)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    lock = _own(paths)
    try:
        check_admin_address(config)
        listener = bind(config)
        host, port = listener.getsockname()[:2]
        supervisor = Supervisor(
            plan(config, config_path),
            state=paths.state,
            logs=paths.data / "logs",
            listener=listener,
            echo=echo,
            command=command,
        )

        def on_ready() -> None:
            logging.getLogger("tracetune.up").info(announce.format(url=f"http://{host}:{port}/v1"))

        with listener:
            asyncio.run(supervisor.run(on_ready))
    finally:
        release(paths)
        os.close(lock)


def check_models(config: Config) -> None:
    """Raise OperationError when a managed upstream or a learner cannot run on this installation."""
    for upstream in config.upstreams:
        if upstream.managed is None:
            continue
        if importlib.util.find_spec("torch") is None:
            raise OperationError(
                f"upstream {upstream.name!r} is managed and needs torch; pip install 'tracetune[learner]'"
            )
        if not (upstream.managed.model / "config.json").is_file():
            model = upstream.managed.model
            raise OperationError(f"upstream {upstream.name!r}: {model} is no model directory")


def _own(paths: Paths) -> int:
    """Hold the data directory for the life of this process. Raises OperationError when another one has it."""
    try:
        paths.state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(paths.state / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationError(f"{paths.data} cannot be written: {error.strerror}; see store.url") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OperationError(
            f"{paths.data} is in use by another tracetune; stop it or give this one a store.url of its own"
        ) from error
    return descriptor
