"""The counters of all keys in one file of shared memory that every process maps, in words of 64 bits.

    header    one page: how many accounts there are, and the change that is being made
    accounts  of each its name, and the tallies of what is used and of what all owners hold
    held      for each owner (a process that reserves) and account, the tally of what it holds

A change to an account is all or nothing, whenever its process is killed: it is made in a draft in the header,
one store of one word commits it, and only then it is copied to where it belongs. Whoever takes the lock next
finishes a copy that was cut short. Copying twice is copying once.

Only pages that are used take memory: the file is sparse.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gateway.errors import OperationError
from gateway.quotas.lock import WAIT_S, BoundedLock, open_private
from gateway.quotas.tally import TALLY

COUNTERS = "counters-2"  # the file's name; its number changes with the layout
START_WAIT_S = 5.0  # for the lock, where no request waits
MAX_ACCOUNTS = 2048  # keys with limits, those no longer configured included until a clean stop
MAX_OWNERS = 128  # processes at a time: twice the most that listen.workers allows, for while they change

# The header.
_READY = 0  # 1: the file has what was saved
_ACCOUNTS = 1  # how many there are
CHANGES = 2  # counts settlements
SAVED_CHANGES = 3  # CHANGES when last saved
SAVED_AT = 4  # seconds since 1970
SWEPT_AT = 5
_COMMITTED = 6  # 1: the draft is valid and is to be copied to where it belongs
_TALLIES_TO = 7
_HELD_TO = 8
_DRAFT = 16
_DRAFT_HELD = _DRAFT + 2 * TALLY
_DRAFT_END = _DRAFT + 3 * TALLY
_HEADER_WORDS = 512

# An account: the length of its name, the name, two tallies.
_NAME_BYTES = 800  # 200 characters, as long as a name may be
_WORD = 8
_TALLIES = 1 + _NAME_BYTES // _WORD
_ACCOUNT_WORDS = _TALLIES + 2 * TALLY

_HELD = _HEADER_WORDS + MAX_ACCOUNTS * _ACCOUNT_WORDS
_FILE_BYTES = (_HELD + MAX_OWNERS * MAX_ACCOUNTS * TALLY) * _WORD


class Place(NamedTuple):
    """Where in the file the tallies of an account begin, and where that of what one owner holds of it."""

    tallies: int
    held: int


class Draft(NamedTuple):
    """A change of an account before it is in force: what is used, what all owners hold, and what one does."""

    used: memoryview[int]
    reserved: memoryview[int]
    held: memoryview[int]


class Counters:
    """One mapping of the file in *folder*, with a lock of its own. Not thread-safe.

    Of all who open it, one alone fills a new file by *seed*. Raises OperationError where shared memory
    refuses.
    """

    def __init__(self, folder: Path, seed: Callable[[Counters], None]) -> None:
        self.folder = folder
        self._slots: dict[str, int] = {}  # in their order, as far as they have been looked at
        self._file = open_private(folder / COUNTERS)
        self._lock = BoundedLock(self._file)
        try:
            self._map = self._mapped()
            self.words = memoryview(self._map).cast("q")
            self._draft = Draft(*(self.words[at : at + TALLY] for at in range(_DRAFT, _DRAFT_END, TALLY)))
            with self.locked(START_WAIT_S):
                if not self.words[_READY]:
                    seed(self)
                    self.words[_READY] = 1
        except BaseException:
            self._file.close()
            raise

    def acquire(self, wait_s: float = WAIT_S) -> bool:
        """Take the lock for a moment, and finish what a killed process had begun. False: it cannot be had."""
        if not self._lock.acquire(wait_s):
            return False
        if self.words[_COMMITTED]:
            self._copy_draft()
        return True

    def release(self) -> None:
        self._lock.release()

    @contextmanager
    def locked(self, wait_s: float = WAIT_S) -> Iterator[None]:
        """The same as a block. Raises OperationError where the lock cannot be had."""
        if not self.acquire(wait_s):
            raise OperationError(
                f"{self.folder}: the lock of the limits is held by another process; look for a stopped one"
            )
        try:
            yield
        finally:
            self.release()

    def slots(self) -> dict[str, int]:
        """The slots of all accounts by name, in their order. Needs the lock."""
        for slot in range(len(self._slots), self.words[_ACCOUNTS]):
            at = _account_at(slot)
            start = (at + 1) * _WORD
            self._slots[self._map[start : start + self.words[at]].decode()] = slot
        return self._slots

    def slot_of(self, name: str, used: Iterable[int] = ()) -> int:
        """The slot of *name*, a new one where it has none, with *used* in it. Needs the lock.

        Raises OperationError when there is no more room.
        """
        slots = self.slots()
        if name in slots:
            return slots[name]
        slot, encoded = len(slots), name.encode()
        if slot >= MAX_ACCOUNTS:
            raise OperationError(
                f"{self.folder}: {slot} keys with limits are counted, which is the most, former names "
                "included; stop the gateway and start it again to forget keys that auth.keys no longer has"
            )
        at = _account_at(slot)
        self._allocate(at, _ACCOUNT_WORDS)
        self.words[at] = len(encoded)
        start = (at + 1) * _WORD
        self._map[start : start + len(encoded)] = encoded
        for place, word in enumerate(used, at + _TALLIES):
            self.words[place] = word
        self.words[_ACCOUNTS] = slot + 1  # last: an account that was cut short does not exist
        return slot

    def place(self, slot: int, owner: int) -> Place:
        """Where *owner* changes *slot*. It has memory: a page that is missing then would kill the process."""
        held = _held_at(owner, slot)
        self._allocate(held, TALLY)
        return Place(_account_at(slot) + _TALLIES, held)

    def open_draft(self, place: Place) -> Draft:
        """Begin a change at *place*. Needs the lock. Without `commit` nothing changes."""
        words = self.words
        tallies, held = words[_TALLIES_TO], words[_HELD_TO] = place
        words[_DRAFT:_DRAFT_HELD] = words[tallies : tallies + 2 * TALLY]
        words[_DRAFT_HELD:_DRAFT_END] = words[held : held + TALLY]
        return self._draft

    def commit(self) -> None:
        """Put the draft in force: from here on it happens, even if this process is killed."""
        self.words[_COMMITTED] = 1
        self._copy_draft()

    def read(self, slot: int) -> tuple[list[int], list[int]]:
        """Copies of what is used, and of what all owners hold. Needs the lock."""
        at = _account_at(slot) + _TALLIES
        both = self.words[at : at + 2 * TALLY].tolist()
        return both[:TALLY], both[TALLY:]

    def held_by(self, owner: int) -> list[int]:
        """The slots of which *owner* holds something. Needs the lock."""
        # Read, not mapped: a page that nobody has written would be allocated by looking at it.
        size = TALLY * _WORD
        nothing = bytes(size)
        held = os.pread(self._file.fileno(), self.words[_ACCOUNTS] * size, _held_at(owner, 0) * _WORD)
        return [at // size for at in range(0, len(held), size) if held[at : at + size] != nothing]

    def close(self) -> None:
        for view in (*self._draft, self.words):
            view.release()
        self._map.close()
        self._file.close()

    def _copy_draft(self) -> None:
        words = self.words
        tallies, held = words[_TALLIES_TO], words[_HELD_TO]
        words[tallies : tallies + 2 * TALLY] = words[_DRAFT:_DRAFT_HELD]
        words[held : held + TALLY] = words[_DRAFT_HELD:_DRAFT_END]
        words[_COMMITTED] = 0

    def _mapped(self) -> mmap.mmap:
        self._allocate(0, _HEADER_WORDS)
        try:
            self._file.truncate(_FILE_BYTES)
            return mmap.mmap(self._file.fileno(), _FILE_BYTES)
        except OSError as error:
            raise self._refused(error) from error

    def _allocate(self, at: int, words: int) -> None:
        try:
            os.posix_fallocate(self._file.fileno(), at * _WORD, words * _WORD)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OperationError:
        return OperationError(f"{self.folder}: no shared memory for the limits of keys: {error.strerror}")


def _account_at(slot: int) -> int:
    return _HEADER_WORDS + slot * _ACCOUNT_WORDS


def _held_at(owner: int, slot: int) -> int:
    return _HELD + (owner * MAX_ACCOUNTS + slot) * TALLY
