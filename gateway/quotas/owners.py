"""Owners: the processes that hold reservations. What a killed one held is given back to its keys.

Each owner keeps the lock of its file for life. Who gets the lock of another's file has found a dead one. Its
reservations are released, not charged: what an upstream did for them is in no trace and nobody knows it. One
that is merely stopped lives, and keeps what it holds until the windows end.
"""

from __future__ import annotations

from gateway.errors import OperationError
from gateway.quotas.counters import MAX_OWNERS, Counters
from gateway.quotas.lock import lock_now
from gateway.quotas.tally import take_all


class Owner:
    """This process among those that reserve, by its number. Raises OperationError where there is no room."""

    def __init__(self, counters: Counters) -> None:
        for number in range(MAX_OWNERS):
            file = lock_now(counters.folder / f"owner-{number:03d}")
            if file is not None:
                break
        else:
            raise OperationError(
                f"{counters.folder}: {MAX_OWNERS} gateway processes count limits already; stop some"
            )
        self.number, self._file = number, file
        try:
            _release(counters, number)  # of the one that had this number before
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Leave. What is still held is released by the next sweep."""
        self._file.close()


def sweep(counters: Counters) -> None:
    """Release what dead owners held. Raises OperationError."""
    for path in counters.folder.glob("owner-*"):
        file = lock_now(path)
        if file is not None:
            with file:
                _release(counters, int(path.name[-3:]))


def _release(counters: Counters, owner: int) -> None:
    with counters.locked():
        slots = counters.held_by(owner)
    for slot in slots:
        with counters.locked():  # one account at a time: others want it for microseconds
            draft = counters.open_draft(counters.place(slot, owner))
            take_all(draft.reserved, draft.held)
            counters.commit()
