"""The counters of all keys in one file of shared memory that every process maps.

A change to an account is all or nothing, whenever its process is killed: it is made in a draft inside the
file, one store of one word commits it, and only then it is copied to where it belongs. Whoever takes the lock
next finishes a copy that was cut short. Copying twice is copying once.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import OperationError
from gateway.quotas import layout
from gateway.quotas.lock import WAIT_S, BoundedLock

COUNTERS = "counters"  # the file's name
START_WAIT_S = 5.0  # for a lock, where no request waits
_FILE_BYTES = layout.FILE_WORDS * layout.WORD


class Counters:
    """One mapping of the file in *folder*, with a lock of its own. Not thread-safe.

    Where there is no file yet, *seed* fills a new one before anybody sees it. Raises OperationError where
    shared memory refuses.
    """

    def __init__(self, folder: Path, seed: Callable[[Counters], None]) -> None:
        self.folder = folder
        self._slots: dict[str, int] = {}  # in their order, as far as they have been looked at
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = BoundedLock(folder / "lock")
        except OSError as error:
            raise _refused(folder, error) from error
        try:
            with self._alone(START_WAIT_S):
                self._map_or_create(folder / COUNTERS, seed)
        except BaseException:
            self._lock.close()
            raise

    def acquire(self) -> bool:
        """Take the lock for a moment, and finish what a killed process had begun. False: it cannot be had."""
        if not self._lock.acquire():
            return False
        if self.words[layout.COMMITTED]:
            self._copy_draft()
        return True

    def release(self) -> None:
        self._lock.release()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The same as a block. Raises OperationError where the lock cannot be had."""
        with self._alone(WAIT_S):
            if self.words[layout.COMMITTED]:
                self._copy_draft()
            yield

    def open_draft(self, cells_at: int, holds_at: int) -> None:
        """Begin a change of the cells at *cells_at* and of what an owner holds at *holds_at*."""
        words = self.words
        words[layout.DRAFT_CELLS_TO] = cells_at
        words[layout.DRAFT_HELD_TO] = holds_at
        _copy(words, layout.DRAFT_CELLS, cells_at, layout.CELLS_WORDS)
        _copy(words, layout.DRAFT_HELD, holds_at, layout.HOLDS_WORDS)

    def commit(self) -> None:
        """Put the draft in force: from here on it happens, even if this process is killed."""
        self.words[layout.COMMITTED] = 1
        self._copy_draft()

    def slots(self) -> dict[str, int]:
        """The slots of all accounts by name, in their order. Needs the lock."""
        for slot in range(len(self._slots), self.words[layout.ACCOUNTS]):
            at = layout.account_at(slot)
            start = (at + layout.NAME_AT) * layout.WORD
            self._slots[self._map[start : start + self.words[at]].decode()] = slot
        return self._slots

    def slot_of(self, name: str) -> int:
        """The slot of *name*, a new one where it has none. Needs the lock. Raises OperationError."""
        slots = self.slots()
        if name in slots:
            return slots[name]
        slot, encoded = len(slots), name.encode()
        if slot >= layout.MAX_ACCOUNTS:
            raise OperationError(
                f"{self.folder}: {slot} keys with limits are counted, which is the most, former names "
                "included; stop the gateway and start it again to forget keys that auth.keys no longer has"
            )
        at = layout.account_at(slot)
        self._allocate(at, layout.ACCOUNT_WORDS)
        self.words[at] = len(encoded)
        start = (at + layout.NAME_AT) * layout.WORD
        self._map[start : start + len(encoded)] = encoded
        self.words[layout.ACCOUNTS] = slot + 1  # last: a name that was cut short does not exist
        return slot

    def cells(self, slot: int) -> list[int]:
        """A copy of the cells in *slot*. Needs the lock."""
        at = layout.cells_at(slot)
        return self.words[at : at + layout.CELLS_WORDS].tolist()

    def allocate_holds(self, owner: int, slot: int) -> None:
        """Have memory for what *owner* holds of *slot*: a page missing later would kill the process."""
        self._allocate(layout.holds_at(owner, slot), layout.HOLDS_WORDS)

    def holding(self, owner: int) -> list[int]:
        """The slots of which *owner* holds something."""
        # Read, not mapped: a page that nobody has written would be allocated by looking at it.
        length = self.words[layout.ACCOUNTS] * layout.HOLDS_WORDS * layout.WORD
        data = os.pread(self._file, length, layout.holds_at(owner, 0) * layout.WORD)
        size = layout.HOLDS_WORDS * layout.WORD
        return [at // size for at in range(0, len(data), size) if any(data[at : at + size])]

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self._file)
        self._lock.close()

    def _copy_draft(self) -> None:
        words = self.words
        _copy(words, words[layout.DRAFT_CELLS_TO], layout.DRAFT_CELLS, layout.CELLS_WORDS)
        _copy(words, words[layout.DRAFT_HELD_TO], layout.DRAFT_HELD, layout.HOLDS_WORDS)
        words[layout.COMMITTED] = 0

    def _allocate(self, at: int, words: int) -> None:
        try:
            os.posix_fallocate(self._file, at * layout.WORD, words * layout.WORD)
        except OSError as error:
            raise _refused(self.folder, error) from error

    @contextmanager
    def _alone(self, wait_s: float) -> Iterator[None]:
        if not self._lock.acquire(wait_s):
            raise OperationError(
                f"{self.folder}: the lock of the limits is held by another process; look for a stopped one"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _map_or_create(self, path: Path, seed: Callable[[Counters], None]) -> None:
        try:
            if _is_current(path):
                self._open(path, 0)
                return
            draft = path.with_suffix(".new")  # only the lock's holder writes it
            self._open(draft, os.O_CREAT | os.O_TRUNC)
            try:
                self._allocate(0, layout.HEADER_WORDS)
                self.words[layout.KIND] = layout.KIND_NOW
                seed(self)
                draft.rename(path)
            except BaseException:
                self.words.release()
                self._map.close()
                os.close(self._file)
                raise
        except OSError as error:
            raise _refused(self.folder, error) from error

    def _open(self, path: Path, flags: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            os.ftruncate(self._file, _FILE_BYTES)
            self._map = mmap.mmap(self._file, _FILE_BYTES)
        except OSError:
            os.close(self._file)
            raise
        self.words = memoryview(self._map).cast("q")


def _is_current(path: Path) -> bool:
    """Whether *path* is a file of this layout. One of another release is counted anew from what was saved."""
    try:
        with path.open("rb") as file:
            kind = int.from_bytes(file.read(layout.WORD), sys.byteorder)
            return kind == layout.KIND_NOW and path.stat().st_size == _FILE_BYTES
    except FileNotFoundError:
        return False


def _copy(words: memoryview[int], to: int, source: int, count: int) -> None:
    words[to : to + count] = words[source : source + count]


def _refused(folder: Path, error: OSError) -> OperationError:
    return OperationError(f"{folder}: no shared memory for the limits of keys: {error.strerror}")
