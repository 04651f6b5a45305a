"""Which parts of a body are stored once for all, and under which id.

A part is stored by the hash of its content once several people's requests have had the same: what belongs to
one person must go with that person's rows when they are erased. With encryption it is under a key of its
client, and only system prompts and tool schemas are shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.traces.bodies.shared_parts import Kind, split
from gateway.traces.encryption.sealing import Sealer
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
    """Takes the shared parts out of bodies. With a *keyring*, as encryption allows. For one thread."""

    def __init__(self, keyring: Keyring | None, max_bytes: int) -> None:
        self._keyring = keyring
        self._max_bytes = max_bytes
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
                return None
            if self._keyring is None:
                rows.append(_row(blob, kind, content.decode(), started_at))
            else:
                rows.append(self._sealed_row(blob, kind, content, client, started_at))
            return blob

        return split(body, take), rows

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
