"""The spool: rows on disk between the recorder, who alone writes it, and the shipper.

One file is open, `*.open`; the others are `*.sealed`, never change, and are the shipper's to delete. A record
is a length, a CRC-32 and a payload: where it came from in shared memory, its table and its row. So what a
killed recorder had already written can be told from its own file, and a torn tail from a whole record.
A sealed file's name is never used again: it is also the token under which the store knows its rows.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from gateway.errors import OperationError

SPOOL_SEGMENT_BYTES = 8 << 20
SPOOL_SEGMENTS_AT_LEAST = 8  # a small capture.max_bytes makes files smaller, so that it holds this many
SEAL_AFTER_S = 0.5  # the oldest row of the open file waits no longer; part of the five seconds to the store
BEHIND_FILES = 16  # with so many sealed files the store is behind, and waiting longer makes fewer files
BEHIND_SEAL_AFTER_S = 15
RESCAN_S = 0.25  # the shipper deletes files; look this often how much is left

OPEN, SEALED = ".open", ".sealed"
_MAGIC = b"TTSPOOL1"
_FRAME = struct.Struct("<II")  # length and CRC-32 of the payload


class SpoolRecord(msgspec.Struct, frozen=True, array_like=True):
    """One payload. `segment`, `end` and `count` say up to where the segment in shared memory is taken."""

    segment: str
    end: int
    count: int
    table: str
    row: msgspec.Raw  # msgpack, a map of the columns


class SpoolContents(msgspec.Struct, frozen=True, kw_only=True):
    """What a spool file holds. `damaged`: payloads whose checksum does not hold; `torn_bytes`: no records."""

    records: list[SpoolRecord]
    damaged: list[bytes]
    whole_bytes: int
    torn_bytes: int


class SpoolBoundError(OperationError):
    """The spool holds capture.max_bytes and, by its policy, nothing may go."""


Fsync = Literal["never", "interval", "always"]


class Spool:
    """The recorder's end of the spool in *directory*. Raises OSError for what the disk refuses."""

    def __init__(self, directory: Path, *, fsync: Fsync, max_bytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._fsync = fsync
        self._max_bytes = max_bytes
        self._segment_bytes = min(SPOOL_SEGMENT_BYTES, max_bytes // SPOOL_SEGMENTS_AT_LEAST)
        self._fd = -1
        self._path = directory
        self._size = 0
        self._opened_at = 0.0
        self._sealed_count = 0
        self._sealed_bytes = 0
        self._scan()

    def recover(self) -> list[tuple[Path, SpoolContents]]:
        """Files that a killed recorder left open, each cut to its whole records. They are to be sealed."""
        found = []
        for path in sorted(self._directory.glob(f"*{OPEN}")):
            contents = read_spool(path)
            os.truncate(path, contents.whole_bytes)
            found.append((path, contents))
        return found

    def append(self, payloads: list[bytes]) -> None:
        """Write *payloads*, all or none. Raises SpoolBoundError at the bound, OSError for the disk."""
        data = _framed(payloads)
        if self.backlog_bytes() + len(data) > self._max_bytes:
            self._scan()
        if self.backlog_bytes() + len(data) > self._max_bytes:
            raise SpoolBoundError(
                f"the spool holds {self._max_bytes} bytes; raise capture.max_bytes, or let the store catch up"
            )
        if self._fd < 0:
            self._open()
        try:
            _write_all(self._fd, data)
            if self._fsync == "always":
                os.fdatasync(self._fd)
        except OSError:
            self._cut_tail()
            raise
        self._size += len(data)

    @property
    def holds_rows(self) -> bool:
        return self._fd >= 0

    def due(self) -> bool:
        """Whether the open file is to be sealed, for its size or its age."""
        if self._fd < 0:
            return False
        seal_after_s = SEAL_AFTER_S if self._sealed_count < BEHIND_FILES else BEHIND_SEAL_AFTER_S
        return self._size >= self._segment_bytes or time.monotonic() - self._opened_at >= seal_after_s

    def seal(self) -> None:
        """Hand the open file to the shipper. The caller has put down its positions before."""
        if self._fd < 0:
            return
        if self._fsync == "interval":
            os.fdatasync(self._fd)
        os.close(self._fd)
        self._fd = -1
        seal_file(self._path)
        self._scan()

    def sealed(self) -> list[Path]:
        """Sealed files, oldest first."""
        return sealed_files(self._directory)

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
            account(len(read_spool(path).records))
            path.unlink()
        finally:
            os.close(fd)
        self._scan()
        return freed

    def _cut_tail(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)  # shrinking needs no space
        except OSError:
            os.close(self._fd)  # nothing may follow a torn record; the next start recovers the file
            self._fd = -1

    def _scan(self) -> None:
        self._scanned_at = time.monotonic()
        sizes = [_size(path) for path in self.sealed()]
        self._sealed_count, self._sealed_bytes = len(sizes), sum(sizes)

    def _open(self) -> None:
        name = f"{time.time_ns():019d}-{os.urandom(4).hex()}{OPEN}"
        path = self._directory / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, _MAGIC)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._fd, self._path, self._size = fd, path, len(_MAGIC)
        self._opened_at = time.monotonic()


def encode_record(segment: str, end: int, count: int, table: str, row: msgspec.Struct) -> bytes:
    """The payload of one row that ends at *end* of *segment*, its record number *count*."""
    return msgspec.msgpack.encode(SpoolRecord(segment, end, count, table, _raw(row)))


def _raw(row: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(row))


def read_spool(path: Path) -> SpoolContents:
    """The whole records of *path*. A damaged record is set apart when what follows it is whole."""
    data = path.read_bytes()
    records: list[SpoolRecord] = []
    damaged: list[bytes] = []
    at = len(_MAGIC) if data.startswith(_MAGIC) else len(data)
    whole = min(at, len(data)) if data.startswith(_MAGIC) else 0
    pending: list[bytes] = []
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length:
            break
        at += _FRAME.size + length
        record = _decode(payload) if zlib.crc32(payload) == checksum else None
        if record is None:
            pending.append(payload)  # damaged, or a torn tail: what follows tells
            continue
        damaged += pending
        pending = []
        records.append(record)
        whole = at
    return SpoolContents(records=records, damaged=damaged, whole_bytes=whole, torn_bytes=len(data) - whole)


def rewritten(contents: SpoolContents, keep: Callable[[SpoolRecord], bool]) -> bytes:
    """A spool file of those of the whole records of *contents* that *keep* says may stay."""
    payloads = [msgspec.msgpack.encode(record) for record in contents.records if keep(record)]
    return _MAGIC + _framed(payloads)


def _framed(payloads: list[bytes]) -> bytes:
    return b"".join(_FRAME.pack(len(one), zlib.crc32(one)) + one for one in payloads)


def _decode(payload: bytes) -> SpoolRecord | None:
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None


def sealed_files(directory: Path) -> list[Path]:
    """Sealed files in *directory*, oldest first."""
    return sorted(directory.glob(f"*{SEALED}"))


def seal_file(path: Path) -> None:
    """Give an open file that nobody writes any more its sealed name."""
    path.rename(path.with_suffix(SEALED))


def claim(path: Path) -> int | None:
    """A descriptor with the file's lock, for shipping or dropping it. None: another has it, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # shipped while we looked


_decoder = msgspec.msgpack.Decoder(SpoolRecord)
