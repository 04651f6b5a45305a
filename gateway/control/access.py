"""Who may call the control API: keys with scopes, or without keys only this machine and no web page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from gateway.config.check import is_loopback
from gateway.config.types import Scope
from gateway.control.plane import ControlPlane
from gateway.data_plane.auth import ANYONE, Client
from gateway.data_plane.errors import invalid_key, not_permitted

Connection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[Connection, BaseRouteHandler], None]


def requires(scope: Scope) -> Guard:
    """A guard that raises ApiError (401, 403) unless the caller's key has *scope*, or none are asked for."""

    def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        del handler
        if not client_of(connection).may(scope):
            raise not_permitted(f"This needs a key with scope {scope!r}.")

    return guard


def client_of(connection: Connection) -> Client:
    """Who calls. Raises ApiError: 401 without a known key, 403 for a web page where no key is asked for."""
    plane: ControlPlane = connection.app.state.plane
    keys = plane.state.live.keys
    if keys is None:
        _refuse_web_pages(connection)
        return ANYONE
    client = keys.identify(connection.headers.get("authorization", "").encode("latin-1") or None)
    if client is None:
        raise invalid_key()
    return client


def _refuse_web_pages(connection: Connection) -> None:
    # A page in this machine's browser can reach loopback too, by its own name for it (DNS rebinding) or by a
    # cross-site request. Both give themselves away: the one in Host, the other in Origin.
    host = connection.headers.get("host", "")
    if not is_loopback(_hostname(host)):
        raise not_permitted(
            "Without auth.keys the control API answers only at a loopback address, and this Host is not one."
        )
    origin = connection.headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host.lower()}", f"https://{host.lower()}"}:
        raise not_permitted("A web page of another origin may not call this; with auth.keys a key would.")


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
