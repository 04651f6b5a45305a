"""The listening socket, bound once by the supervisor and inherited by every worker.

A worker that dies takes no waiting connection along: the socket and its queue outlive it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.types import Config
from gateway.errors import OperationError
from gateway.listening import listening
from gateway.supervisor.plan import ProcessPlan, inference_name


def bind(config: Config) -> socket.socket:
    """Bind `listen`. Raises OperationError, in one line, when the address cannot be had."""
    listener = _bind("listen", config.listen.host, config.listen.port)
    listener.set_inheritable(True)
    return listener


def check_admin_address(config: Config) -> None:
    """Raise OperationError when `admin_listen` cannot be had; worker 0 binds it each time it starts."""
    if config.admin_listen is not None:
        _bind("admin_listen", config.admin_listen.host, config.admin_listen.port).close()


def check_managed_addresses(config: Config, config_path: Path, plans: Sequence[ProcessPlan]) -> None:
    """Raise OperationError when a server that *plans* start cannot have its address.

    What listens there instead would get the gateway's requests.
    """
    planned = {plan.name for plan in plans}
    for index, upstream in enumerate(config.upstreams):
        if inference_name(upstream) not in planned:
            continue
        parts = urlsplit(upstream.servers[0])
        host, port = parts.hostname or "", parts.port or 80
        place = f"{config_path}: $.upstreams[{index}].base_url"
        try:
            listening(host, port).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OperationError(
                    f"{place}: port {port} on {host} is in use, and `up` runs the server there itself; "
                    "stop what listens there, or choose another port"
                ) from error
            raise OperationError(
                f"{place}: cannot listen on {host}:{port}: {error.strerror}; correct it"
            ) from error


def _bind(section: str, host: str, port: int) -> socket.socket:
    try:
        return listening(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OperationError(
                f"port {port} on {host} is in use; stop what listens there or set {section}.port"
            ) from error
        raise OperationError(
            f"cannot listen on {host}:{port}: {error.strerror}; see {section}.host"
        ) from error
