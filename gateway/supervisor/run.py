"""What `tracetune up` and `tracetune gateway` share: check, prepare the folders, bind, supervise."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway.config.load import load_config
from gateway.config.secrets import read_secrets
from gateway.config.types import Config
from gateway.errors import OperationError
from gateway.file_lock import try_lock
from gateway.listening import local_url
from gateway.model_files import model_fault
from gateway.paths import Paths, paths_of
from gateway.supervisor.listener import bind, check_admin_address, check_managed_addresses
from gateway.supervisor.plan import ProcessPlan
from gateway.supervisor.shared_memory import release
from gateway.supervisor.supervisor import Supervisor

ROOM_BYTES = 1 << 20  # that the disk must take before anything is started


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
    check_models(config, config_path)
    plans = plan(config, config_path)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    lock = _own(paths)
    try:
        check_admin_address(config)
        check_managed_addresses(config, config_path, plans)
        listener = bind(config)
        url = local_url(*listener.getsockname()[:2])
        supervisor = Supervisor(
            plans,
            state=paths.state,
            logs=paths.data / "logs",
            listener=listener,
            echo=echo,
            command=command,
        )

        def on_ready() -> None:
            logging.getLogger("tracetune.up").info(announce.format(url=f"{url}/v1"))

        with listener:
            asyncio.run(supervisor.run(on_ready))
    finally:
        release(paths)
        os.close(lock)


def check_models(config: Config, config_path: Path) -> None:
    """Raise OperationError when a managed upstream cannot run on this installation, or has no whole model."""
    for index, upstream in enumerate(config.upstreams):
        if upstream.managed is None:
            continue
        if importlib.util.find_spec("torch") is None:
            raise OperationError(
                f"upstream {upstream.name!r} is managed and needs torch; pip install 'tracetune[learner]'"
            )
        fault = model_fault(upstream.managed.model)
        if fault is not None:
            raise OperationError(
                f"{config_path}: $.upstreams[{index}].managed.model: {fault}; "
                "put a whole model there, or correct the path"
            )


def _own(paths: Paths) -> int:
    """Hold the data directory for the life of this process.

    Raises OperationError when another one has it, or nothing can be written there; then it is as it was.
    """
    made = [folder for folder in (paths.state, paths.data) if not folder.exists()]
    lock = paths.state / "up.lock"
    try:
        paths.state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        _remove(made)
        raise _unwritable(paths, error) from error
    if not try_lock(descriptor):
        os.close(descriptor)
        raise OperationError(
            f"{paths.data} is in use by another tracetune; stop it or give this one a store.url of its own"
        )
    try:
        with tempfile.TemporaryFile(dir=paths.state) as file:
            file.write(bytes(ROOM_BYTES))
    except OSError as error:
        if paths.state in made:
            lock.unlink()
        os.close(descriptor)
        _remove(made)
        raise _unwritable(paths, error) from error
    return descriptor


def _unwritable(paths: Paths, error: OSError) -> OperationError:
    remedy = "free some, or change store.url" if error.errno == errno.ENOSPC else "see store.url"
    return OperationError(f"{paths.data} cannot be written: {error.strerror}; {remedy}")


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it was not made yet, or somebody else uses it
            folder.rmdir()
