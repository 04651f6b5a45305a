"""`transport: httpx`: what httpx is told so that it reaches an upstream as `proxy` and `http2` say."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from gateway.config.secrets import UpstreamSecrets
from gateway.config.types import Upstream
from gateway.errors import ConfigError
from gateway.upstream.address import Address
from gateway.upstream.httpx_connection import HttpxConnection

_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)


class HttpxTransport:
    """Makes the connections of one upstream.

    It uses httpx's transports and not its client: a client would add headers, cookies and credentials from
    the environment to what it sends. No proxy is taken from the environment either: whoever sees every
    prompt is named in the configuration. Raises ConfigError for a URL that httpx cannot read.
    """

    def __init__(self, upstream: Upstream, secrets: UpstreamSecrets) -> None:
        self._name = upstream.name
        self._http2 = upstream.http2
        self._proxy = proxy_of(upstream, secrets)
        for server in upstream.servers:
            _url(server, upstream.name)

    def connection(self, address: Address, connect_s: float) -> HttpxConnection:
        """A connection to the server at *address*, which it makes when it is first used."""
        transport = httpx.AsyncHTTPTransport(**options(address, self._proxy, http2=self._http2), limits=_ONE)
        connection = HttpxConnection(self._name, address.url, transport, connect_s)
        # httpx has no way to name what its connections run over; httpcore, below it, has.
        transport._pool._network_backend = connection.wire  # noqa: SLF001 -- see above
        return connection


def options(address: Address, proxy: httpx.Proxy | None, *, http2: bool) -> dict[str, Any]:
    """What httpx's transports, sync or async, are built with for the server at *address*.

    HTTP/2 is offered in the TLS handshake; without TLS it is spoken unasked.
    """
    return {
        # Without TLS none is needed, and reading all the roots for one would take longer than a request.
        "verify": address.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        "trust_env": False,
        "http1": address.tls is not None or not http2,
        "http2": http2,
        "proxy": proxy,
    }


def proxy_of(upstream: Upstream, secrets: UpstreamSecrets) -> httpx.Proxy | None:
    """The egress proxy of *upstream*, with its credentials. Raises ConfigError for what is not a URL."""
    if upstream.proxy is None:
        return None
    url = _url(upstream.proxy, upstream.name)
    user, _, password = (secrets.proxy_auth or "").partition(":")
    return httpx.Proxy(
        url,
        auth=(user, password) if secrets.proxy_auth is not None else None,
        ssl_context=ssl.create_default_context() if url.scheme == "https" else None,
    )


def _url(text: str, upstream: str) -> httpx.URL:
    try:
        return httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"upstream {upstream!r}: {text!r} is not a URL: {error}") from error
