"""Client keys: who a request comes from and what it may do. Keys are held as keyed hashes, never as text."""

from __future__ import annotations

import hashlib
import hmac
import secrets

import msgspec

from gateway.config.secrets import Secrets
from gateway.config.types import Auth, Scope

ADMIN_CLIENT = "admin"
_ALL_SCOPES: frozenset[Scope] = frozenset({"infer", "feedback", "pin", "admin", "approve"})
_BEARER = b"bearer "
_DIGEST_BYTES = 32


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A caller by its key's name. `routes` None: every route."""

    name: str
    scopes: frozenset[Scope]
    routes: frozenset[str] | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_use(self, route: str) -> bool:
        """Whether *route* is open to it; "" stands for model names that no route serves."""
        return self.routes is None or route in self.routes


# Without an `auth` section only loopback is listened on, and whoever is there may do everything.
ANYONE = Client(name="", scopes=_ALL_SCOPES)


class ClientKeys:
    """The keys in force. A lookup costs one keyed hash and tells nothing by its timing.

    The hash is keyed with a salt that lives as long as the object, so the digest that is looked up cannot be
    predicted or steered by a caller, and the final comparison is constant in time.
    """

    def __init__(self, auth: Auth, keys: Secrets) -> None:
        self._salt = secrets.token_bytes(_DIGEST_BYTES)
        self._clients: dict[bytes, Client] = {}
        if keys.admin_key is not None:
            self._add(keys.admin_key, Client(name=ADMIN_CLIENT, scopes=_ALL_SCOPES))
        for entry in auth.keys:
            routes = None if entry.routes is None else frozenset(entry.routes)
            client = Client(name=entry.name, scopes=frozenset(entry.scopes), routes=routes)
            self._add(keys.client_keys[entry.name], client)

    def identify(self, authorization: bytes | None) -> Client | None:
        """The client of an `authorization` header value, None for no key or one that is not known."""
        if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
            return None
        digest = self._digest(authorization[len(_BEARER) :].strip())
        client = self._clients.get(digest)
        return client if client is not None and hmac.compare_digest(digest, digest) else None

    def _add(self, key: str, client: Client) -> None:
        self._clients[self._digest(key.encode())] = client

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, digest_size=_DIGEST_BYTES, key=self._salt).digest()
