"""Where one upstream server is, and the constant part of every request to it."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address:
    """One server of an upstream. `prefix` is its base path: `/v1` of `https://host/v1`."""

    __slots__ = ("host", "hostname", "port", "prefix", "tls", "url")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "the configuration checks it"
        self.url = url
        self.hostname = parts.hostname
        self.port = parts.port or _DEFAULT_PORTS[parts.scheme]
        bracketed = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.host = bracketed if self.port == _DEFAULT_PORTS[parts.scheme] else f"{bracketed}:{self.port}"
        self.prefix = parts.path.rstrip("/")
        # The default context verifies certificate and name against the system's (or SSL_CERT_FILE's) roots.
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None

    def request_line(self, method: str, path: str) -> bytes:
        """`METHOD target HTTP/1.1` with the host header; *path* is what follows the base path."""
        return f"{method} {self.prefix}{path} HTTP/1.1\r\nhost: {self.host}\r\n".encode("latin-1")
