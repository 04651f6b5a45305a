"""The data keys: one for each subject of a client, or session where nobody said whom it is about.

`DATA/state/keyring.sqlite`. The master key wraps the keyring's own key, and that wraps every data key, so
that a change of the master key rewrites one value, and a key management service is asked once by each
process.

Destroying a key has to be real: see `keyring_file` for what keeps it out of every file.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import KeyringError
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.encryption.keyring_file import open_file, told, transaction
from gateway.traces.encryption.master_key import Wrapper, wrapper_of

DATA_KEY_BYTES = 32
NONCE_BYTES = 12
MAX_CACHED_KEYS = 20_000  # of a process, in each direction; about 1 KB each
FORGET_WITHIN_S = 0.2  # after another process destroyed a key, this one uses it no longer than that

# Equal in size, so that the row stays where it is and no byte of the key is left anywhere.
_DESTROY = """
UPDATE keys SET owner = zeroblob(length(owner)), wrapped = zeroblob(length(wrapped)), live = 0
WHERE owner = ? AND live = 1
"""


class DataKey(NamedTuple):
    """A key in use. `id` is its name in what it encrypted: 32 hex digits."""

    id: str
    cipher: AESGCM


class Keyring:
    """One keyring, open in this process. Safe to use from several threads.

    Every method raises KeyringError where the file cannot be read or written.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, own_key: bytes) -> None:
        self._path = path
        self._db = connection
        self._own = AESGCM(own_key)
        self._digest_key = hashlib.blake2b(own_key, person=b"digests").digest()
        self._lock = threading.RLock()
        self._by_owner: dict[bytes, DataKey] = {}
        self._by_id: dict[bytes, DataKey] = {}
        self._fresh: list[tuple[bytes, bytes, bytes]] = []  # id, owner and wrapped key, not written yet
        self._looked_at = 0.0
        self._seen_version = -1

    @classmethod
    def open(cls, path: Path, master: Wrapper, former: Wrapper | None = None) -> Keyring:
        """The keyring at *path*, made there if there is none.

        One that *former* wrapped is wrapped anew by *master*. Raises KeyringError where neither fits.
        """
        with told(path):
            db, own_key = open_file(path, master, former)
        return cls(path, db, own_key)

    def key_for(self, client: str, subject: str | None, session: str) -> DataKey:
        """The key of *subject*, else of *session*, of *client*; a new one where there is none.

        A new one is written by the next `commit`. Nothing that it encrypted may reach a disk before.
        """
        return self._key_of(_owner(client, subject, session))

    def shared_key(self, client: str) -> DataKey:
        """The key of what a client's requests have in common and is about nobody. As `key_for`."""
        return self._key_of(_digest_of("shared", client, ""))

    def digest(self, client: str, content: bytes) -> str:
        """A name for *content* that only this keyring can make: nobody can test a guess."""
        keyed = hashlib.blake2b(content, key=self._digest_key, digest_size=16, person=b"tracetune blob")
        keyed.update(b"\0" + client.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()

    def commit(self) -> None:
        """Write the new keys, on disk on return. Does nothing where there are none."""
        with self._lock, told(self._path):
            if not self._fresh:
                return
            with transaction(self._db):
                self._db.executemany(
                    "INSERT INTO keys (key_id, owner, wrapped, live) VALUES (?, ?, ?, 1)", self._fresh
                )
            self._fresh.clear()

    def read(self, key_id: str) -> DataKey | None:
        """The key of that id; None: it was destroyed. Raises KeyringError for one that was never in here."""
        with self._lock, told(self._path):
            self._forget_destroyed()
            raw = bytes.fromhex(key_id)
            key = self._by_id.get(raw)
            if key is not None:
                return key
            row = self._db.execute("SELECT wrapped, live FROM keys WHERE key_id = ?", (raw,)).fetchone()
            if row is None:
                raise KeyringError(
                    f"key {key_id} is not in {self._path}; it comes from another data directory"
                )
            if not row[1]:
                return None
            key = self._unwrapped(raw, row[0])
            _remember(self._by_id, raw, key)
            return key

    def destroy(self, client: str, subject: str | None = None, sessions: Iterable[str] = ()) -> int:
        """Destroy the keys of *subject* and of *sessions* of *client*; how many there were.

        When this returns, no file of the keyring holds them, and within FORGET_WITHIN_S no other process uses
        them. What a process has in hand at that moment may make a new key: it is to be called again then.
        """
        owners = [_owner(client, None, session) for session in sessions]
        if subject is not None:
            owners.append(_owner(client, subject, ""))
        with self._lock, told(self._path):
            self.commit()
            self._by_owner.clear()
            self._by_id.clear()
            with transaction(self._db):
                return sum(self._db.execute(_DESTROY, (owner,)).rowcount for owner in owners)

    def close(self) -> None:
        """Close the file. Keys that `commit` did not write are lost: nothing was kept under them."""
        with self._lock:
            self._db.close()

    def _key_of(self, owner: bytes) -> DataKey:
        with self._lock, told(self._path):
            self._forget_destroyed()
            key = self._by_owner.get(owner)
            if key is None:
                key = self._stored_key(owner) or self._new_key(owner)
                _remember(self._by_owner, owner, key)
            return key

    def _forget_destroyed(self) -> None:
        """Drop what is remembered when another process wrote: it may have destroyed some of it."""
        now = time.monotonic()
        if now - self._looked_at < FORGET_WITHIN_S:
            return
        self._looked_at = now
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._seen_version:
            self._seen_version = version
            unwritten = {owner for _, owner, _ in self._fresh}
            self._by_owner = {owner: key for owner, key in self._by_owner.items() if owner in unwritten}
            self._by_id.clear()

    def _stored_key(self, owner: bytes) -> DataKey | None:
        row = self._db.execute(
            "SELECT key_id, wrapped FROM keys WHERE owner = ? AND live = 1 LIMIT 1", (owner,)
        ).fetchone()
        return None if row is None else self._unwrapped(*row)

    def _new_key(self, owner: bytes) -> DataKey:
        # Ids begin with the time, so that their index grows at its end too.
        raw = time.time_ns().to_bytes(8, "big") + os.urandom(8)
        data_key, nonce = os.urandom(DATA_KEY_BYTES), os.urandom(NONCE_BYTES)
        self._fresh.append((raw, owner, nonce + self._own.encrypt(nonce, data_key, raw)))
        return DataKey(raw.hex(), AESGCM(data_key))

    def _unwrapped(self, raw: bytes, wrapped: bytes) -> DataKey:
        try:
            data_key = self._own.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], raw)
        except InvalidTag as error:
            raise KeyringError(f"key {raw.hex()} in {self._path} is damaged; restore the file") from error
        return DataKey(raw.hex(), AESGCM(data_key))


def open_keyring(source: KeySource, environ: Mapping[str, str]) -> Keyring | None:
    """The keyring of *source*; None without a master key: nothing is, and nothing was, encrypted.

    It opens with `encrypt: none` too, as long as a master key is named: what was encrypted before stays
    readable. Raises ConfigError for a master key that cannot be read, KeyringError for one that does not fit.
    """
    privacy = source.privacy
    if privacy.master_key is None:
        return None
    master = wrapper_of(privacy.master_key, environ, "$.privacy.master_key")
    former = None
    if privacy.former_master_key is not None:
        former = wrapper_of(privacy.former_master_key, environ, "$.privacy.former_master_key")
    return Keyring.open(source.keyring, master, former)


def _owner(client: str, subject: str | None, session: str) -> bytes:
    return (
        _digest_of("session", client, session) if subject is None else _digest_of("subject", client, subject)
    )


def _digest_of(kind: str, client: str, name: str) -> bytes:
    """What a key is found by: a digest, so that the file names nobody."""
    text = f"{kind}\0{client}\0{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _remember(cache: dict[bytes, DataKey], name: bytes, key: DataKey) -> None:
    if len(cache) >= MAX_CACHED_KEYS:
        del cache[next(iter(cache))]
    cache[name] = key
