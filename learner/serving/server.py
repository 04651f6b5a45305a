"""Runs the small inference server: bind, load, answer, stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import torch
import uvicorn

from learner.errors import ServingError
from learner.serving.adapters import AdapterSet
from learner.serving.app import App
from learner.serving.engine import Engine, EngineLimits
from learner.serving.model import ServedModel

# Answers in flight get this long at a stop, and the engine this long to finish its pass.
DRAIN_S = 3
ENGINE_STOP_S = 1.5
# Longer than gateways keep idle connections, so that it is never the server that closes one as it is
# being used.
KEEP_ALIVE_S = 120

_log = logging.getLogger("tracetune.serve")


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `tracetune serve` can be told."""

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None  # the base model's name in requests; default: its directory's name
    adapters: Path | None = None  # a folder of adapter folders to load at the start
    device: str | None = None
    threads: int | None = None
    max_model_len: int = 4096
    max_adapters: int = 64
    limits: EngineLimits = EngineLimits()


def default_threads() -> int:
    """Half of the cores, at least one: a gateway, a store and a training run live beside the server."""
    return max((os.cpu_count() or 1) // 2, 1)


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT; then finish within five seconds.

    Raises LearnerError for a directory that is no base model, ServingError for a busy port or a model or
    adapter that cannot be served.
    """
    started = time.monotonic()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with _bound(options.host, options.port) as listener:
        torch.set_num_threads(options.threads or default_threads())
        model = ServedModel(options.model, device=options.device)
        name = options.name or options.model.resolve().name
        adapters = AdapterSet(model, name, limit=options.max_adapters)
        if options.adapters is not None:
            _load_folder(adapters, options.adapters)
        engine = Engine(model, options.limits)
        app = App(
            engine,
            model,
            adapters,
            name=name,
            root=options.model.resolve(),
            max_tokens=min(options.max_model_len, model.max_tokens),
        )
        host, port = listener.getsockname()[:2]
        ready = (
            f"{name} on {model.device.type} ({str(model.dtype).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} threads) at http://{host}:{port}/v1, ready in "
        )
        engine.start()
        try:
            _run(app, listener, ready, started)
        finally:
            engine.stop(ENGINE_STOP_S)


class _Server(uvicorn.Server):
    """Uvicorn that says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: str, started: float) -> None:
        super().__init__(config)
        self._ready = ready
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _log.info("%s%.1f s", self._ready, time.monotonic() - self._started)


def _run(app: App, listener: socket.socket, ready: str, started: float) -> None:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    # Uvicorn raises the signal that stopped it again at the end; by then the stop is done, and is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, ready, started).run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a busy port shows at once, clients are refused until ready."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServingError(
            f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port"
        ) from error
    return listener


def _load_folder(adapters: AdapterSet, folder: Path) -> None:
    if not folder.is_dir():
        raise ServingError(f"{folder}: is no folder of adapters - at --adapters")
    adapters.load_folder(folder)
