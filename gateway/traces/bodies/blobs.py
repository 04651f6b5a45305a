"""Which parts of a body are stored once for all, and under which id.

A part is stored by the hash of its content once several people's requests have had the same: what belongs to
one person must go with that person's rows when they are erased. With encryption it is under a key of its
client, and only system prompts and tool schemas are shared.

An image that comes again in the same session, as every turn of a chat brings it, is stored once for that
session, under a name that says whose it is (`blob_owners.py`) and, with encryption, under that person's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.traces.bodies.shared_parts import Kind, split
from gateway.traces.encryption.sealing import Sealer
from gateway.traces.erasure.blob_owners import owned_blob
from gateway.traces.erasure.erasures import Owner, owner_digest
from gateway.traces.spool.delivered import digest_of

if TYPE_CHECKING:
    from gateway.traces.encryption.keyring import Keyring

MIN_BLOB_BYTES = 1024  # a reference takes 70 bytes, and a row of its own about 100
SHARED_BY = 3  # people (or sessions that an app has named) must have had a part, before it is shared
MAX_STORED_BLOBS = 100_000  # remembered as stored
MAX_COUNTED_PARTS = 10_000  # parts whose people are counted
MAX_KEPT_ROWS = 256  # encrypted rows in memory, so that a prompt is not encrypted anew for each trace
DIGEST_BYTES = 16

_NEVER = datetime.min.replace(tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class BlobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `blobs`. No trace that started after `used_until` relies on this row being there."""

    blob: str
    kind: str
    content: str  # JSON text
    used_until: datetime


class Splitter:
    """Takes the shared parts out of bodies. With a *keyring*, as encryption allows. For one thread.

    *owner_key* is the installation's redaction key; without it no part is kept by its owner.
    """

    def __init__(self, keyring: Keyring | None, max_bytes: int, owner_key: bytes | None = None) -> None:
        self._keyring = keyring
        self._max_bytes = max_bytes
        self._owner_key = owner_key
        self._seen: dict[str, None] = {}  # names of images that have come once
        self._sealer = Sealer()
        self._rows: dict[str, BlobRow] = {}
        self._owners: dict[str, set[tuple[str | None, str]]] = {}

    def split(
        self, body: Any, *, client: str, owner: tuple[str | None, str] | None, started_at: datetime
    ) -> tuple[Any, list[BlobRow]]:
        """*body* with references, and the rows they need. *owner*: subject and session, None: unknown."""
        rows: list[BlobRow] = []

        def take(kind: Kind, value: Any) -> str | None:
            if isinstance(value, str) and (
                len(value) < MIN_BLOB_BYTES // 4 or (kind == "image" and not value.startswith("data:"))
            ):
                return None
            content = _encode(value)
            if not MIN_BLOB_BYTES <= len(content) <= self._max_bytes:
                return None
            if self._keyring is None:
                blob = hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
            else:
                blob = self._keyring.digest(client, content)
            # What is about one person has to go with that person's rows, and key.
            is_private = kind == "image" and self._keyring is not None
            if is_private or not self._is_shared(blob, owner):
                if kind != "image" or owner is None or self._owner_key is None:
                    return None
                blob = self._owned(client, owner, blob)
                if not self._came_before(blob):
                    return None
                rows.append(self._owned_row(blob, content, client, owner, started_at))
            elif self._keyring is None:
                rows.append(_row(blob, kind, content.decode(), started_at))
            else:
                rows.append(self._sealed_row(blob, kind, content, client, started_at))
            return blob

        return split(body, take), rows

    def _owned(self, client: str, owner: tuple[str | None, str], content: str) -> str:
        assert self._owner_key is not None
        key, (subject, session) = self._owner_key, owner
        of_subject = None if subject is None else owner_digest(key, Owner("subject", client, subject))
        # Keyed: an erasure leaves the name in the store's list of deletions; nobody may test a guess by it.
        keyed = hashlib.blake2b(content.encode(), key=key, digest_size=DIGEST_BYTES).hexdigest()
        return owned_blob(of_subject, owner_digest(key, Owner("session", client, session)), keyed)

    def _came_before(self, blob: str) -> bool:
        if blob in self._seen:
            return True
        self._seen[blob] = None
        if len(self._seen) > MAX_COUNTED_PARTS:
            del self._seen[next(iter(self._seen))]
        return False

    def _owned_row(
        self, blob: str, content: bytes, client: str, owner: tuple[str | None, str], at: datetime
    ) -> BlobRow:
        text = content.decode()
        if self._keyring is not None:
            text = self._sealer.seal(text, self._keyring.key_for(client, *owner), blob_place(blob))
        return _row(blob, "image", text, at)

    def _sealed_row(self, blob: str, kind: Kind, content: bytes, client: str, at: datetime) -> BlobRow:
        """The encrypted row, made once for as long as it is relied on."""
        row = self._rows.get(blob)
        if row is None or row.used_until != relied_on_until(at):
            assert self._keyring is not None
            text = self._sealer.seal(content.decode(), self._keyring.shared_key(client), blob_place(blob))
            if len(self._rows) >= MAX_KEPT_ROWS:
                del self._rows[next(iter(self._rows))]
            row = self._rows[blob] = _row(blob, kind, text, at)
        return row

    def _is_shared(self, blob: str, owner: tuple[str | None, str] | None) -> bool:
        owners = self._owners.setdefault(blob, set())
        if owner is not None and len(owners) < SHARED_BY:
            owners.add(owner if owner[0] is None else (owner[0], ""))
            if len(self._owners) > MAX_COUNTED_PARTS:
                del self._owners[next(iter(self._owners))]
        return len(owners) >= SHARED_BY


class BlobLedger:
    """Which blobs need not be written again, each with its `used_until`.

    A row and the blobs that it names are in one spool file, unless the store has confirmed them before: so a
    file that is dropped takes nothing from the rows of another.
    """

    def __init__(self) -> None:
        self._open: dict[str, datetime] = {}  # in the spool file that is being written
        self._sealed: dict[str, dict[str, datetime]] = {}  # by sealed file
        self._stored: dict[str, datetime] = {}

    def missing(self, rows: list[BlobRow], group: Mapping[str, datetime]) -> list[BlobRow]:
        """Those of *rows* to be written with the row that names them; *group* is what goes before it."""
        return [
            row
            for row in rows
            if all(
                row.used_until > known.get(row.blob, _NEVER) for known in (group, self._open, self._stored)
            )
        ]

    def forget(self) -> None:
        """Rely on nothing that was written: an erasure may have taken it."""
        self._open, self._sealed, self._stored = {}, {}, {}

    def wrote(self, blobs: Mapping[str, datetime]) -> None:
        """They are in the open file."""
        self._open.update(blobs)

    def sealed(self, name: str) -> None:
        """The open file is closed, and waits for the store as *name*."""
        if self._open:
            self._sealed[name] = self._open
            self._open = {}

    def look(self, waiting: Collection[str], delivered: Callable[[], Mapping[str, str]]) -> None:
        """Of sealed files that are not among *waiting*, learn what the store has.

        Only from *delivered*, which gives the digests of what was confirmed, by file: a file that is gone may
        have been dropped, set aside or lost.
        """
        gone = [name for name in self._sealed if name not in waiting]
        confirmed = delivered() if gone else {}
        for name in gone:
            blobs = self._sealed.pop(name)
            if confirmed.get(name) == digest_of(blobs):
                self._stored.update(blobs)
        if len(self._stored) > MAX_STORED_BLOBS:
            self._stored = {}  # they are written again, which costs little


def relied_on_until(at: datetime) -> datetime:
    """Until when a blob of a trace that started at *at* may be relied on without being written again."""
    return datetime.combine(at.astimezone(UTC).date() + timedelta(days=2), time(), UTC)


def blob_place(blob: str) -> str:
    """What an encrypted blob is bound to."""
    return f"blobs.content of {blob}"


def _row(blob: str, kind: str, content: str, at: datetime) -> BlobRow:
    return BlobRow(blob=blob, kind=kind, content=content, used_until=relied_on_until(at))
