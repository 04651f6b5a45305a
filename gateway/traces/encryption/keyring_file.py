"""The SQLite file of the keyring, which must not keep what was deleted from it.

It is in no write-ahead log, which would keep former pages; deleted bytes are overwritten (`secure_delete`);
the rollback journal is emptied at every commit; and a wrapped key is never moved: its table only grows at its
end, and a key is overwritten where it lies.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import KeyringError
from gateway.traces.encryption.master_key import LocalWrapper, Wrapper, WrongMasterKeyError

OWN_KEY_BYTES = 32
LOCK_WAIT_S = 10.0  # for another process to finish its commit

_creating = threading.Lock()
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


def open_file(path: Path, master: Wrapper, former: Wrapper | None) -> tuple[sqlite3.Connection, bytes]:
    """The file, made if there is none, and the key that wraps the others. Raises KeyringError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _create(path)
    db = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        return db, _own_key(db, path, master, former)
    except BaseException:
        db.close()
        raise


def _create(path: Path) -> None:
    """An empty file that is nobody else's from the start.

    One that is there is not opened: closing it would end the locks of this process's other connections to it.
    """
    with _creating, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block, on disk on return, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.OperationalError):  # SQLite rolls back some errors by itself
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite and the disk say, as one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise KeyringError(f"keyring {path} cannot be used: {error}") from error
    except OSError as error:
        raise KeyringError(f"keyring {path} cannot be used: {error.strerror}") from error


def _own_key(db: sqlite3.Connection, path: Path, master: Wrapper, former: Wrapper | None) -> bytes:
    """The key that wraps the others, made by whoever comes first.

    The master key is asked outside of any transaction: a service may take its time.
    """
    wrapped = _ring(db)
    if wrapped is None:
        own_key = os.urandom(OWN_KEY_BYTES)
        mine = master.wrap(own_key)
        with transaction(db):
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
            why = "" if isinstance(master, LocalWrapper) else f" ({error})"
            raise KeyringError(
                f"privacy.master_key does not open {path}{why}; bring back the key it was made with, or "
                "name that as privacy.former_master_key. Nothing was changed"
            ) from error
    mine = master.wrap(former_key)
    with transaction(db):
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
