"""The data keys: one for each subject of a client, or session where nobody said whom it is about.

`DATA/state/keyring.sqlite`. The master key wraps the keyring's own key, and that wraps every data key, so
that a change of the master key rewrites one value, and a key management service is asked once by each
process.

Destroying a key has to be real. So the file is in no write-ahead log, which would keep former pages; deleted
bytes are overwritten (`secure_delete`); the rollback journal is emptied at every commit; and a wrapped key is
never moved: its table only grows at its end, and a key is overwritten where it lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import KeyringError
from gateway.traces.key_source import KeySource
from gateway.traces.master_key import LocalWrapper, Wrapper, WrongMasterKeyError, wrapper_of

DATA_KEY_BYTES = 32
NONCE_BYTES = 12
MAX_CACHED_KEYS = 20_000  # of a process, in each direction; about 1 KB each
FORGET_WITHIN_S = 0.2  # after another process destroyed a key, this one uses it no longer than that
LOCK_WAIT_S = 10.0  # for another process to finish its commit

_PRAGMAS = (
    "journal_mode=TRUNCATE",
    "secure_delete=ON",
    "temp_store=MEMORY",  # a statement's own journal would be a file elsewhere, and keep what it changed
    "synchronous=FULL",
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ring (one INTEGER PRIMARY KEY CHECK (one = 1), wrapped BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS keys (
    n INTEGER PRIMARY KEY,
    key_id BLOB NOT NULL, owner BLOB NOT NULL, wrapped BLOB NOT NULL, live INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS by_id ON keys (key_id);
CREATE INDEX IF NOT EXISTS by_owner ON keys (owner) WHERE live = 1;
"""
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
        with _told(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(
                os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            )  # nobody else's from the start
            db = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                for pragma in _PRAGMAS:
                    db.execute(f"PRAGMA {pragma}")
                own_key = _own_key(db, path, master, former)
            except BaseException:
                db.close()
                raise
        return cls(path, db, own_key)

    def key_for(self, client: str, subject: str | None, session: str) -> DataKey:
        """The key of *subject*, else of *session*, of *client*; a new one where there is none.

        A new one is written by the next `commit`. Nothing that it encrypted may reach a disk before.
        """
        owner = _owner(client, subject, session)
        with self._lock, _told(self._path):
            self._forget_destroyed()
            key = self._by_owner.get(owner)
            if key is None:
                key = self._stored_key(owner) or self._new_key(owner)
                _remember(self._by_owner, owner, key)
            return key

    def commit(self) -> None:
        """Write the new keys, on disk on return. Does nothing where there are none."""
        with self._lock, _told(self._path):
            if not self._fresh:
                return
            with _transaction(self._db):
                self._db.executemany(
                    "INSERT INTO keys (key_id, owner, wrapped, live) VALUES (?, ?, ?, 1)", self._fresh
                )
            self._fresh.clear()

    def read(self, key_id: str) -> DataKey | None:
        """The key of that id; None: it was destroyed. Raises KeyringError for one that was never in here."""
        with self._lock, _told(self._path):
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
        with self._lock, _told(self._path):
            self.commit()
            self._by_owner.clear()
            self._by_id.clear()
            with _transaction(self._db):
                return sum(self._db.execute(_DESTROY, (owner,)).rowcount for owner in owners)

    def close(self) -> None:
        """Close the file. Keys that `commit` did not write are lost: nothing was kept under them."""
        with self._lock:
            self._db.close()

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


def _own_key(db: sqlite3.Connection, path: Path, master: Wrapper, former: Wrapper | None) -> bytes:
    """The key that wraps the others, made by whoever comes first.

    The master key is asked outside of any transaction: a service may take its time.
    """
    wrapped = _ring(db)
    if wrapped is None:
        own_key = os.urandom(DATA_KEY_BYTES)
        mine = master.wrap(own_key)
        with _transaction(db):
            for statement in _SCHEMA.strip().split(";\n"):
                db.execute(statement)
            db.execute("INSERT OR IGNORE INTO ring (one, wrapped) VALUES (1, ?)", (mine,))
        wrapped = _ring(db)
        assert wrapped is not None
        if wrapped == mine:
            return own_key
    try:
        return master.unwrap(wrapped)
    except WrongMasterKeyError as error:
        former_key = _from_former(wrapped, former)
        if former_key is None:
            told = "" if isinstance(master, LocalWrapper) else f" ({error})"
            raise KeyringError(
                f"privacy.master_key does not open {path}{told}; bring back the key it was made with, or "
                "name that as privacy.former_master_key. Nothing was changed"
            ) from error
    mine = master.wrap(former_key)
    with _transaction(db):
        db.execute("UPDATE ring SET wrapped = ? WHERE wrapped = ?", (mine, wrapped))
    return former_key


def _ring(db: sqlite3.Connection) -> bytes | None:
    """The wrapped key of a keyring that was made; None of one that was not, or not to its end."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'ring'").fetchone() is None:
        return None
    row = db.execute("SELECT wrapped FROM ring").fetchone()
    return None if row is None else row[0]


def _from_former(wrapped: bytes, former: Wrapper | None) -> bytes | None:
    try:
        return None if former is None else former.unwrap(wrapped)
    except WrongMasterKeyError:
        return None


def _owner(client: str, subject: str | None, session: str) -> bytes:
    """What a key is found by: a digest, so that the file names nobody."""
    kind, name = ("session", session) if subject is None else ("subject", subject)
    text = f"{kind}\0{client}\0{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _remember(cache: dict[bytes, DataKey], name: bytes, key: DataKey) -> None:
    if len(cache) >= MAX_CACHED_KEYS:
        del cache[next(iter(cache))]
    cache[name] = key


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.OperationalError):  # SQLite rolls back some errors by itself
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite and the disk say, as one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise KeyringError(f"keyring {path} cannot be used: {error}") from error
    except OSError as error:
        raise KeyringError(f"keyring {path} cannot be used: {error.strerror}") from error
