"""The listening socket, bound once by the supervisor and inherited by every worker.

A worker that dies takes no waiting connection along: the socket and its queue outlive it.
"""

from __future__ import annotations

import errno
import socket

from gateway.config.types import Config
from gateway.errors import OperationError

BACKLOG = 2048


def bind(config: Config) -> socket.socket:
    """Bind `listen`. Raises OperationError, in one line, when the address cannot be had."""
    listener = _bind("listen", config.listen.host, config.listen.port)
    listener.set_inheritable(True)
    return listener


def check_admin_address(config: Config) -> None:
    """Raise OperationError when `admin_listen` cannot be had; worker 0 binds it each time it starts."""
    if config.admin_listen is not None:
        _bind("admin_listen", config.admin_listen.host, config.admin_listen.port).close()


def _bind(section: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OperationError(
                f"port {port} on {host} is in use; stop what listens there or set {section}.port"
            ) from error
        raise OperationError(
            f"cannot listen on {host}:{port}: {error.strerror}; see {section}.host"
        ) from error
    return listener
