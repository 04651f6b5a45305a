"""Serves the control API on `admin_listen`, from inside worker 0."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from litestar import Litestar

from gateway.config.types import AdminListen
from gateway.listening import listening

log = logging.getLogger(__name__)

RETRY_S = 1.0  # a worker that was killed may leave the address in use for a moment
GRACE_S = 2  # for answers under way when the worker stops


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the worker's to handle, and this server is stopped by cancelling it."""
        yield


async def serve_admin(app: Litestar, listen: AdminListen) -> None:
    """Serve until cancelled.

    An address that cannot be had is one line in the log and is tried again: requests do not stop for it.
    """
    listener = await _bind(listen)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    log.info("control API on %s port %d", listen.host, listener.getsockname()[1])
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        listener.close()


async def _bind(listen: AdminListen) -> socket.socket:
    said = ""
    while True:
        try:
            return listening(listen.host, listen.port)
        except OSError as error:
            if str(error) != said:
                said = str(error)
                log.error(  # noqa: TRY400 -- one line says it all
                    "admin_listen: %s port %d cannot be had: %s; stop what listens there or change it",
                    listen.host,
                    listen.port,
                    error,
                )
            await asyncio.sleep(RETRY_S)
