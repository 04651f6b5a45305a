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
_FOUND_BY_BYTES = 16  # of a digest; no two keys share them by chance


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A caller by its key's name. `routes` None: every route. `training`: its traces may be learnt from."""

    name: str
    scopes: frozenset[Scope]
    routes: frozenset[str] | None = None
    training: bool = True

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_use(self, route: str) -> bool:
        """Whether *route* is open to it; "" stands for model names that no route serves."""
        return self.routes is None or route in self.routes


# Without an `auth` section only loopback is listened on, and whoever is there may do everything.
ANYONE = Client(name="", scopes=_ALL_SCOPES)


class ClientKeys:
    """The keys in force. A lookup costs one keyed hash and one comparison, and tells nothing by its timing.

    The hash is keyed with a salt that lives as long as the object, so that no caller can predict or steer
    what is looked up. Found by a part of it, the whole is compared in constant time, for a key that nobody
    has too.
    """

    def __init__(self, auth: Auth, keys: Secrets) -> None:
        self._salt = secrets.token_bytes(_DIGEST_BYTES)
        self._nobody: tuple[bytes, Client | None] = (secrets.token_bytes(_DIGEST_BYTES), None)
        self._found: dict[bytes, tuple[bytes, Client | None]] = {}
        if keys.admin_key is not None:
            self._add(keys.admin_key, Client(name=ADMIN_CLIENT, scopes=_ALL_SCOPES))
        for entry in auth.keys:
            routes = None if entry.routes is None else frozenset(entry.routes)
            client = Client(
                name=entry.name, scopes=frozenset(entry.scopes), routes=routes, training=entry.training
            )
            self._add(keys.client_keys[entry.name], client)

    def identify(self, authorization: bytes | None) -> Client | None:
        """The client of an `authorization` header value, None for no key or one that is not known."""
        if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
            return None
        digest = self._digest(authorization[len(_BEARER) :].strip())
        expected, client = self._found.get(digest[:_FOUND_BY_BYTES], self._nobody)
        return client if hmac.compare_digest(digest, expected) else None

    def _add(self, key: str, client: Client) -> None:
        digest = self._digest(key.encode())
        self._found[digest[:_FOUND_BY_BYTES]] = (digest, client)

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, digest_size=_DIGEST_BYTES, key=self._salt).digest()
