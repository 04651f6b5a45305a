"""The spool: rows on disk between the recorder, who alone writes it, and the shipper.

One file is open, `*.open`; the others are `*.sealed`, never change, and are the shipper's to delete
(`spool_file.py` says what is in one). Nothing may follow a torn record: where the disk does not let one be
cut off, the file is sealed with it, or, where it refuses that too, left open until it does not.

A power cut takes what was not synced (and shared memory with it), as `capture.fsync` says: `always` syncs
each group of rows before their memory is freed, `interval` within FSYNC_EVERY_S, `never` leaves it to the
system.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from gateway.errors import OperationError
from gateway.traces.spool.spool_file import (
    MAGIC,
    OPEN,
    SEALED,
    SpoolContents,
    claim,
    framed,
    framed_size,
    read_spool,
    seal_file,
    sealed_files,
    waits_since,
)
from gateway.traces.types import BLOBS

SPOOL_SEGMENT_BYTES = 8 << 20
SPOOL_SEGMENTS_AT_LEAST = 8  # a small capture.max_bytes makes files smaller, so that it holds this many
SEAL_AFTER_S = 0.5  # the oldest row of the open file waits no longer; part of the five seconds to the store
BEHIND_FILES = 16  # with so many sealed files the store is behind, and waiting longer makes fewer files
BEHIND_SEAL_AFTER_S = 15
FSYNC_EVERY_S = 1.0  # with capture.fsync: interval
RESCAN_S = 0.25  # the shipper deletes files; look this often how much is left


class SpoolBoundError(OperationError):
    """The spool holds as much, or reaches as far back, as it may and, by its policy, nothing may go."""


class Recovered(NamedTuple):
    """A file that a killed recorder left open. `contents` None: it cannot be read, for the reason `refused`.

    Else `refused` says why its torn tail is still there, and None that it has none.
    """

    path: Path
    contents: SpoolContents | None
    refused: OSError | None


Fsync = Literal["never", "interval", "always"]


class Spool:
    """The recorder's end of the spool in *directory*. Raises OSError for what the disk refuses.

    *sync* brings a file's data, *sync_entries* a folder's entries to where they outlive a power cut.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fsync: Fsync,
        max_bytes: int,
        max_age_s: float = math.inf,
        sync: Callable[[int], None] = os.fdatasync,
        sync_entries: Callable[[int], None] = os.fsync,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sync = sync
        self._sync_entries = sync_entries
        self.left: list[Path] = []  # files that stay open until the disk lets them be sealed
        self.torn_for: OSError | None = (
            None  # why the open file's tail cannot be cut: seal it, append nothing
        )
        self._unsynced_at: float | None = None  # since when rows of the open file wait to be synced
        self._directory = directory
        self._fsync = fsync
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._segment_bytes = min(SPOOL_SEGMENT_BYTES, max_bytes // SPOOL_SEGMENTS_AT_LEAST)
        self._fd = -1
        self._path = directory
        self._size = 0
        self._opened_at = 0.0
        self._sealed_count = 0
        self._sealed_bytes = 0
        self._oldest_at = math.inf
        self._scan()

    def recover(self) -> list[Recovered]:
        """Files that a killed recorder left open, each cut to its whole records. They are to be sealed."""
        found = []
        for path in sorted(self._directory.glob(f"*{OPEN}")):
            contents: SpoolContents | None = None
            refused = None
            try:
                contents = read_spool(path)
                if contents.torn_bytes:
                    os.truncate(path, contents.whole_bytes)
            except OSError as error:
                refused = error
            found.append(Recovered(path, contents, refused))
        return found

    def append(self, payloads: list[bytes]) -> None:
        """Write *payloads*, all or none. Raises SpoolBoundError at the bound, OSError for the disk."""
        if self.over(payloads):
            self._scan()
        if self.over(payloads):
            raise SpoolBoundError(
                f"the spool holds {self._max_bytes} bytes; raise capture.max_bytes, or let the store catch up"
            )
        if time.time() - self._oldest_at > self._max_age_s:
            raise SpoolBoundError(
                f"the spool reaches back {self._max_age_s / 86400:g} days; raise capture.max_age_days, or "
                "let the store catch up"
            )
        data = b"".join(map(framed, payloads))
        if self._fd < 0:
            self._open()
        try:
            _write_all(self._fd, data)
            if self._fsync == "always":
                self._sync(self._fd)
        except OSError:
            self._cut_tail()
            raise
        self._size += len(data)
        if self._fsync == "interval" and self._unsynced_at is None:
            self._unsynced_at = time.monotonic()

    def sync_when_due(self) -> None:
        """With `interval`: sync rows that have waited for FSYNC_EVERY_S. To be called often."""
        if self._unsynced_at is not None and time.monotonic() - self._unsynced_at >= FSYNC_EVERY_S:
            self._sync(self._fd)
            self._unsynced_at = None

    @property
    def holds_rows(self) -> bool:
        return self._fd >= 0

    @property
    def sealed_name(self) -> str:
        """The name that the open file will have when it is sealed."""
        return self._path.with_suffix(SEALED).name

    def due(self) -> bool:
        """Whether the open file is to be sealed, for its size or its age."""
        if self._fd < 0:
            return False
        seal_after_s = SEAL_AFTER_S if self._sealed_count < BEHIND_FILES else BEHIND_SEAL_AFTER_S
        return self._size >= self._segment_bytes or time.monotonic() - self._opened_at >= seal_after_s

    def seal(self) -> None:
        """Hand the open file to the shipper. The caller has put down its positions before.

        One that may not be written any more is left open where the disk refuses.
        """
        if self._fd < 0:
            return
        if self._unsynced_at is not None or self.torn_for is not None:
            self._sync(self._fd)
            self._unsynced_at = None
        if self.torn_for is not None:
            self.seal_or_leave(self._path)
        else:
            seal_file(self._path)  # refused, it is tried again: the file is still ours
        os.close(self._fd)
        self._fd, self.torn_for = -1, None
        self._scan()

    def seal_or_leave(self, path: Path) -> None:
        """Seal a file that nothing is written to any more, or have `seal_left` do so later."""
        try:
            seal_file(path)
        except OSError:
            self.left.append(path)

    def seal_left(self) -> None:
        """Seal what the disk did not let be sealed before. To be called now and then."""
        waiting, self.left = self.left, []
        for path in waiting:
            if path.exists():  # nobody has taken it away
                self.seal_or_leave(path)

    def read_open(self) -> SpoolContents:
        """What the open file holds. Raises OSError."""
        return read_spool(self._path)

    def sealed(self) -> list[Path]:
        """Sealed files, oldest first."""
        return sealed_files(self._directory)

    def over(self, payloads: list[bytes]) -> int:
        """Bytes that have to go before *payloads* may be written; 0: they fit."""
        return max(0, self.backlog_bytes() + framed_size(payloads) - self._max_bytes)

    def older_than(self, seconds: float) -> list[Path]:
        """Sealed files whose first row has waited for longer than that."""
        before = time.time() - seconds
        return [path for path in self.sealed() if waits_since(path) < before]

    def backlog_bytes(self) -> int:
        """Bytes of every file, the open one included."""
        if time.monotonic() - self._scanned_at >= RESCAN_S:
            self._scan()
        return self._sealed_bytes + (self._size if self._fd >= 0 else 0)

    def drop(self, path: Path, account: Callable[[int], None]) -> int:
        """Remove a sealed file once *account* was told how many rows go; the bytes that this frees.

        0: the shipper has it in hand, or is done with it.
        """
        fd = claim(path)
        if fd is None:
            return 0
        try:
            freed = os.fstat(fd).st_size
            account(sum(record.table != BLOBS for record in read_spool(path).records))
            path.unlink()
        finally:
            os.close(fd)
        self._scan()
        return freed

    def _cut_tail(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)  # shrinking needs no space
        except OSError as error:
            self.torn_for = error

    def _scan(self) -> None:
        self._scanned_at = time.monotonic()
        files = self.sealed()
        self._sealed_count, self._sealed_bytes = len(files), sum(map(_size, files))
        self._oldest_at = min(map(waits_since, files), default=math.inf)

    def _open(self) -> None:
        name = f"{time.time_ns():019d}-{os.urandom(4).hex()}{OPEN}"
        path = self._directory / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, MAGIC)
            if self._fsync != "never":
                self._sync_directory()  # or a power cut takes the file with all that was synced
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._fd, self._path, self._size = fd, path, len(MAGIC)
        self._opened_at = time.monotonic()

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync_entries(fd)
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # shipped while we looked
