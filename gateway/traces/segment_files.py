"""The files under the segments: their layout, the lock that tells finished from active, freeing, evicting."""

from __future__ import annotations

import ctypes
import logging
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from gateway.errors import OperationError
from gateway.file_lock import try_lock

log = logging.getLogger(__name__)

SUFFIX = ".seg"
TOMBSTONE = ".evicted"
UNLOCKED = ".new"
MAGIC = b"TTS1"
HEADER = struct.Struct("<4sIIQQ")  # magic, flags, lengths of meta, request and response
MARK = b"\xc0COMMIT\xc1"
BODIES_LEFT_OUT = 1
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of <linux/falloc.h>
_fallocate = getattr(
    ctypes.CDLL(None), "fallocate64", None
)  # glibc's, on any platform with 64 bits of offset
if _fallocate is not None:
    _fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_ABANDONED_S = 60  # an unlocked file that never got its final name is a dead writer's after this long


def prepare_directory(directory: Path) -> None:
    """Create *directory* readable by its owner only. Raises OperationError if somebody else's lies there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        # /dev/shm is writable by everyone: a folder prepared by another user would show them every request.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise OperationError(f"segments folder {directory} belongs to somebody else; remove it")
        directory.chmod(0o700)
    except OSError as error:
        raise OperationError(f"segments folder {directory} cannot be made: {error.strerror}") from error


def parse_end(data: bytes, at: int) -> int | None:
    """The offset behind the record at *at*, or None when no whole, committed record lies there."""
    if len(data) - at < HEADER.size:
        return None
    magic, _, meta_size, request_size, response_size = HEADER.unpack_from(data, at)
    end: int = at + HEADER.size + meta_size + request_size + response_size + len(MARK)
    if magic != MAGIC or end > len(data) or data[end - len(MARK) : end] != MARK:
        return None
    return end


def reserve(fd: int, start: int, size: int) -> None:
    """Take memory for *size* bytes from *start* on, without making the file longer.

    It saves time and promises nothing: where the system refuses, a write takes its memory itself, or says why
    it cannot.
    """
    if _fallocate is not None:
        _fallocate(fd, _KEEP_SIZE, start, size)


def scrub(fd: int, data: bytes, at: int) -> None:
    """Overwrite what the record at *at* of *data*, the content of the file *fd*, says. It stays a record.

    What says whose it is goes last, so that one that was cut off in the middle is found again.
    """
    _, _, meta_size, request_size, response_size = HEADER.unpack_from(data, at)
    meta_at = at + HEADER.size
    os.pwrite(fd, bytes(request_size + response_size), meta_at + meta_size)
    os.pwrite(fd, bytes(meta_size), meta_at)


def is_scrubbed(meta: bytes) -> bool:
    """Whether *meta* is that of a record that `scrub` has overwritten: no other begins with a zero."""
    return meta.count(0) == len(meta) > 0


def evict(path: Path) -> bool:
    """Drop a finished segment, leaving a tombstone with its record count. False: it is in use or gone."""
    return _with_finished(path, _entomb)


def free(path: Path) -> bool:
    """Forget a finished segment. False: a writer is evicting it, or it is gone."""
    return _with_finished(path, _unlink)


def _with_finished(path: Path, action: Callable[[Path, int], None]) -> bool:
    """Run *action* on a segment that nobody writes, frees or evicts meanwhile. False: somebody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(fd) or os.fstat(fd).st_nlink == 0:
            return False
        action(path, fd)
    finally:
        os.close(fd)
    return True


def _unlink(path: Path, fd: int) -> None:
    del fd
    path.with_suffix(TOMBSTONE).unlink(missing_ok=True)  # of an eviction that did not get to its end
    path.unlink()


def _entomb(path: Path, fd: int) -> None:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    count, at = 0, 0
    while (end := parse_end(data, at)) is not None:
        count, at = count + 1, end
    path.with_suffix(TOMBSTONE).write_text(str(count))
    path.unlink()
    log.warning("evicted a segment of %d traces from shared memory; raise capture.memory_bytes", count)


def listing(directory: Path) -> list[tuple[int, int, Path]]:
    """Segments in *directory* as (last write in ns, bytes, path)."""
    found = []
    for entry in os.scandir(directory):
        if entry.name.endswith(SUFFIX):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # freed while we looked
            found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
    return found


def clear_abandoned(directory: Path) -> None:
    """Remove files that were never locked and named because their writer died; they hold nothing."""
    for path in directory.glob(f"*{UNLOCKED}"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
        except FileNotFoundError:
            continue
