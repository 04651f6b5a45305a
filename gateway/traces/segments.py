"""Segments: how a trace gets from a worker to the recorder through shared memory, and outlives the worker.

A worker appends each record with one write to its own active file on tmpfs. The file's lock says whether
its writer may still append: a reader that gets the lock has a finished segment. A record counts as present
only with its commit mark, which a write puts down last. A file appears under its final name only once it is
locked, so that no reader can mistake a new segment for a finished one.

At `max_bytes` the writer drops: the record at hand (`drop_newest`, and `refuse` for requests that were
already in flight), or the oldest finished segment (`drop_oldest`). An evicted segment leaves a tombstone with
its record count, because only the recorder knows how many of them it had already taken; it counts the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from gateway.file_lock import try_lock
from gateway.traces.segment_files import (
    BODIES_LEFT_OUT,
    HEADER,
    MAGIC,
    MARK,
    SUFFIX,
    TOMBSTONE,
    UNLOCKED,
    clear_abandoned,
    evict,
    free,
    listing,
    parse_end,
    prepare_directory,
    reserve,
)
from gateway.traces.types import Captured

log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 << 20  # an active segment rotates at this size, so that the recorder can free it
SEGMENTS_AT_LEAST = 8  # a small capture.memory_bytes makes segments smaller, so that it holds this many
MAX_RECORD_BYTES = 64 << 20  # bodies of a larger record are left out; the row is kept and says so
RESCAN_S = 0.05  # while at the bound, look this often whether the recorder freed memory
REFUSE_HEADROOM = 8  # `full()` answers at 7/8 of the bound: what is in flight still fits

RESERVE_BYTES = 256 << 10  # memory taken at once for the active segment: page by page takes longer

_FRAME_BYTES = HEADER.size + len(MARK)
_JOINED_BYTES = 64 << 10  # a larger record is not copied to be written in one piece
_MAX_BUFFERS = 1000  # below IOV_MAX (1024 on Linux), with room for header, meta, request and mark

AtBound = Literal["drop_oldest", "drop_newest", "refuse"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a segment. `captured` is None when its meta is not readable; `meta` then holds it."""

    captured: Captured | None
    meta: bytes
    request: bytes
    response: bytes
    bodies_left_out: bool
    end: int  # offset behind the record


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What `SegmentReader.read` found. `torn_bytes` is non-zero only in a finished segment."""

    records: list[Record]
    finished: bool  # no writer will append any more
    torn_bytes: int


def writer_name(index: int) -> str:
    """A name for the writer of worker *index* that no other process has or had."""
    return f"w{index}-{os.getpid()}-{time.time_ns()}"


def writer_began_at(segment: str) -> float:
    """When the writer of the segment with this file name began, in seconds since the epoch; 0.0: not told."""
    parts = segment.split("-")
    return int(parts[2]) / 1e9 if len(parts) == 4 and parts[2].isdecimal() else 0.0


class SegmentWriter:
    """Appends records to this process's own segments in *directory*. Not thread-safe: one event loop uses it.

    `dropped` counts by reason the records this writer did not keep; records evicted later are counted by the
    recorder. `max_bytes` bounds the whole folder, all writers together, give or take a segment per writer.
    """

    def __init__(self, directory: Path, name: str, *, max_bytes: int, at_bound: AtBound) -> None:
        prepare_directory(directory)
        self.dropped: dict[str, int] = {}
        self.appended = 0
        self._directory = directory
        self._name = name
        self._max_bytes = max_bytes
        self._at_bound = at_bound
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // SEGMENTS_AT_LEAST)
        self._reserve_bytes = min(RESERVE_BYTES, self._segment_bytes // 4)
        self._record_bytes = min(MAX_RECORD_BYTES, max_bytes // 4)
        self._encode = msgspec.msgpack.Encoder().encode
        self._sequence = 0
        self._fd = -1
        self._size = 0  # of the active segment
        self._reserved = 0  # bytes of it that have their memory
        self._rest = 0  # bytes of every other segment in the folder when last scanned
        self._scanned_at = 0.0
        self._scan()

    def append(self, captured: Captured, request: bytes = b"", response: Sequence[bytes] = ()) -> bool:
        """Append one record. False: it was dropped and counted. Never raises for what the system refuses."""
        try:
            meta = self._encode(captured)
        except UnicodeEncodeError:  # half of a character in a header or an id
            return self._drop("invalid_text")
        answer = len(response[0]) if len(response) == 1 else sum(map(len, response))
        flags = 0
        size = _FRAME_BYTES + len(meta) + len(request) + answer
        if size > self._record_bytes:
            flags, request, response, answer = BODIES_LEFT_OUT, b"", (), 0
            size = _FRAME_BYTES + len(meta)
        if len(response) > _MAX_BUFFERS:
            response = (b"".join(response),)
        header = HEADER.pack(MAGIC, flags, len(meta), len(request), answer)
        try:
            if self._rest + self._size + size > self._max_bytes and not self._make_room(size):
                return self._drop("memory_bound")
            if self._fd < 0 or self._size >= self._segment_bytes:
                self._rotate()
            if self._size + size > self._reserved:
                self._reserved = self._size + size + self._reserve_bytes
                reserve(self._fd, self._size, self._reserved - self._size)
            pieces = (header, meta, request, *response, MARK)
            if size <= _JOINED_BYTES:
                written = os.write(self._fd, b"".join(pieces))
            else:
                written = os.writev(self._fd, pieces)
        except OSError as error:
            return self._drop("memory_error", error)
        if written != size:  # the tmpfs is full
            self._cut_tail()
            return self._drop("memory_error")
        self._size += size
        self.appended += 1
        return True

    def full(self) -> bool:
        """Whether new requests should be refused (at_bound: refuse), because their traces might not fit."""
        if self._at_bound != "refuse":
            return False
        limit = self._max_bytes - self._max_bytes // REFUSE_HEADROOM
        if self._rest + self._size < limit:
            return False
        try:
            self._release_when_freed()
        except OSError:
            return False  # memory that cannot be looked at refuses nobody; `append` counts what it loses
        return self._rest + self._size >= limit

    def close(self) -> None:
        """Finish the active segment; the recorder takes and frees it. Appending again opens a new one."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)  # gives back what was reserved beyond
            os.close(self._fd)
            self._fd = -1
            self._rest += self._size
            self._size = 0

    def _drop(self, reason: str, error: OSError | None = None) -> bool:
        if reason not in self.dropped:
            detail = error.strerror if error else "capture.memory_bytes raises the bound"
            log.warning("traces are dropped (%s): %s; the count is in the metrics", reason, detail)
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        return False

    def _rotate(self) -> None:
        self.close()
        self._sequence += 1
        path = self._directory / f"{self._name}-{self._sequence:08d}{SUFFIX}"
        unlocked = path.with_suffix(UNLOCKED)
        fd = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(path)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._reserved = 0
        self._scan()

    def _cut_tail(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
            self._reserved = self._size
        except OSError:
            self.close()  # the reader finds the incomplete tail, cuts it and counts it as torn

    def _scan(self) -> None:
        """Learn what lies in the folder besides the active segment."""
        self._scanned_at = time.monotonic()
        self._rest = max(0, sum(size for _, size, _ in listing(self._directory)) - self._size)

    def _release_when_freed(self) -> None:
        if time.monotonic() - self._scanned_at >= RESCAN_S:
            # The active segment may be consumed up to its end, but only a finished one can be freed.
            self.close()
            self._scan()

    def _make_room(self, size: int) -> bool:
        """Whether a record of *size* bytes fits after looking again and, with drop_oldest, after evicting."""
        self._release_when_freed()
        if self._at_bound == "drop_oldest" and self._rest + self._size + size > self._max_bytes:
            self.close()
            self._scan()
            for _, freed, path in sorted(listing(self._directory)):
                if self._rest + size <= self._max_bytes:
                    break
                if evict(path):
                    self._rest -= freed
        return self._rest + self._size + size <= self._max_bytes


class SegmentReader:
    """Reads the segments of every writer in *directory*. Positions are the caller's to keep."""

    def __init__(self, directory: Path) -> None:
        prepare_directory(directory)
        self._directory = directory
        self._decoder = msgspec.msgpack.Decoder(Captured)

    def segments(self) -> list[Path]:
        """Segments present, least recently written first. Clears away what dead writers left unnamed."""
        clear_abandoned(self._directory)
        return [path for _, _, path in sorted(listing(self._directory))]

    def read(self, path: Path, offset: int) -> Batch | None:
        """Records of *path* from *offset* on. None: it is gone (evicted by a writer; see `tombstones`)."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            finished = try_lock(fd)  # before reading: nothing can be appended after this answer
            data = os.pread(fd, max(0, os.fstat(fd).st_size - offset), offset)
        finally:
            os.close(fd)
        records: list[Record] = []
        at = 0
        while (record := self._parse(data, at, offset)) is not None:
            records.append(record)
            at = record.end - offset
        return Batch(records=records, finished=finished, torn_bytes=len(data) - at if finished else 0)

    def free(self, path: Path) -> bool:
        """Forget a finished segment whose records are safe elsewhere. False: a writer is evicting it."""
        return free(path)

    def tombstones(self) -> list[tuple[Path, str, int]]:
        """Evicted segments as (tombstone, segment file name, records it held)."""
        found = []
        for path in sorted(self._directory.glob(f"*{TOMBSTONE}")):
            segment = path.with_suffix(SUFFIX)
            if not segment.exists():  # else its writer died between the two steps and the segment is whole
                found.append((path, segment.name, int(path.read_text() or 0)))
        return found

    def _parse(self, data: bytes, at: int, base: int) -> Record | None:
        end = parse_end(data, at)
        if end is None:
            return None
        _, flags, meta_size, request_size, _ = HEADER.unpack_from(data, at)
        meta_at = at + HEADER.size
        request_at = meta_at + meta_size
        response_at = request_at + request_size
        meta = data[meta_at:request_at]
        try:
            captured: Captured | None = self._decoder.decode(meta)
        except msgspec.MsgspecError:
            captured = None
        return Record(
            captured=captured,
            meta=meta,
            request=data[request_at:response_at],
            response=data[response_at : end - len(MARK)],
            bodies_left_out=bool(flags & BODIES_LEFT_OUT),
            end=base + end,
        )
