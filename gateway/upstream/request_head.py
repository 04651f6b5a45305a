"""The head of a request to one upstream: our key, fixed headers and query, and where the path goes."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

from gateway.config.secrets import UpstreamSecrets
from gateway.config.types import Upstream
from gateway.upstream.address import Address

MAX_HEADS = 1000  # kept ready; a default upstream may be asked for any number of models
_PLAIN_PATH = "{path}"


class RequestHead:
    """Makes the lines that requests to one upstream begin with. Most are made once and kept.

    `fields` are the headers that we set, secrets among them, by lower-case name.
    """

    def __init__(self, upstream: Upstream, secrets: UpstreamSecrets) -> None:
        self._template = upstream.path
        self._by_model = "{model}" in upstream.path
        self._query = "&".join(f"{quote_plus(q.name)}={quote_plus(q.value)}" for q in upstream.query)
        self._query_names = frozenset(quote_plus(q.name).encode() for q in upstream.query)
        auth = upstream.auth_header.lower()
        lines = list(secrets.headers)
        if secrets.key is not None:
            lines.append((auth, f"Bearer {secrets.key}" if auth == "authorization" else secrets.key))
        lines.append(("accept-encoding", "identity"))
        self.fields = dict(lines)
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in lines).encode("utf-8")
        # What the client says in these would stand beside what we say.
        self._ours = frozenset(name.encode() for name, _ in secrets.headers) | {auth.encode()} - {
            b"authorization"
        }
        self._ready: dict[tuple[Address, str, str], bytes] = {}

    def routed(self, address: Address, path: str, model: str, query: bytes) -> bytes:
        """Of a POST to our endpoint *path* for *model*, with the client's *query*."""
        key = (address, path, model if self._by_model else "")
        head = self._ready.get(key)
        if head is None:
            target = self._template.replace(_PLAIN_PATH, path).replace("{model}", quote(model, safe=""))
            head = self._make(address, "POST", target if target.startswith("/") else f"/{target}")
            if len(self._ready) < MAX_HEADS:
                self._ready[key] = head
        return self._with_query(head, query) if query else head

    def passed(self, address: Address, method: str, path: str, query: bytes) -> bytes:
        """Of a request that is passed through: its path follows the base path as it is."""
        return self._with_query(self._make(address, method, path), query)

    def filter(self, lines: bytes) -> bytes:
        """The client's head *lines* that go on."""
        if not self._ours:
            return lines
        kept = [line for line in lines.split(b"\r\n") if line and line.partition(b":")[0] not in self._ours]
        return b"".join(line + b"\r\n" for line in kept)

    def _make(self, address: Address, method: str, path: str) -> bytes:
        target = f"{path}?{self._query}" if self._query else path
        return address.request_line(method, target) + self._lines

    def _with_query(self, head: bytes, query: bytes) -> bytes:
        if self._query_names:
            pairs = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] not in self._query_names]
            query = b"&".join(pairs)
        if not query:
            return head
        joint = b"&" if self._query else b"?"
        return head.replace(b" HTTP/1.1\r\n", joint + query + b" HTTP/1.1\r\n", 1)
