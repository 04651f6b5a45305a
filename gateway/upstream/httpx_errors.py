"""What goes wrong inside httpx, as an error of ours: the one place that knows what lies below httpx."""

from __future__ import annotations

import ssl

import h11
import httpx

from gateway.upstream.errors import ConnectError, DisconnectedError, ProtocolError, UpstreamError

try:
    from h2.exceptions import ProtocolError as _Http2Error
except ImportError:  # without the extra `http2` nothing speaks HTTP/2
    _MISSPOKEN: tuple[type[Exception], ...] = (httpx.LocalProtocolError,)
else:
    _MISSPOKEN = (httpx.LocalProtocolError, _Http2Error)

# Only by its words does h11 tell a response that ended too early from one that is malformed.
_BROKEN_OFF = ("peer closed connection", "peer unexpectedly closed connection")


def upstream_error(error: Exception, upstream: str, server: str, *, connected: bool) -> UpstreamError | None:
    """*error* in our terms, chained to it. None: no fault of the upstream's, but a bug.

    `connected`: the request was on its way, so that the server is at fault and not the way to it. Of what
    the server or a proxy said the message repeats no more than a status.
    """
    mapped = _mapped(error, f"upstream {upstream!r}", server, connected=connected)
    if mapped is not None:
        mapped.__cause__ = error
    return mapped


def _mapped(error: Exception, who: str, server: str, *, connected: bool) -> UpstreamError | None:
    if isinstance(error, httpx.ProxyError):
        return ConnectError(f"{who} cannot be reached at {server}: its proxy answered {_status_in(error)}")
    if isinstance(error, _MISSPOKEN) or _is_malformed(error):
        return ProtocolError(f"{who} at {server} sent, or was to be sent, what is not HTTP")
    if not isinstance(error, httpx.TransportError | ssl.SSLError):
        return None
    if connected:
        return DisconnectedError(f"{who} at {server} closed the connection before its response was whole")
    return ConnectError(f"{who} cannot be reached at {server}: {_one_line(error)}")


def _is_malformed(error: Exception) -> bool:
    cause = error.__cause__
    origin = cause.args[0] if cause is not None and cause.args else None
    return isinstance(origin, h11.RemoteProtocolError) and not str(origin).startswith(_BROKEN_OFF)


def _status_in(refusal: httpx.ProxyError) -> str:
    """The status that a proxy refused with, without its words."""
    status = str(refusal).partition(" ")[0]
    return status if status.isdigit() else "what is not HTTP"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
