"""Stores imported rows, each exactly once, whatever became of earlier tries of the same import."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.errors import StoreRefusedError
from gateway.traces.batches import parts_of
from gateway.traces.bodies.blobs import BlobRow
from gateway.traces.delivery import IDS_PER_QUERY, InsertsRows, Rows, deliver, missing_rows
from gateway.traces.erasure.erasures import ErasureList, Named, named_row
from gateway.traces.types import BLOBS, Trace

BATCH_ROWS = 1_000
BATCH_BYTES = 16 << 20  # of bodies in memory at a time; a single larger row is a batch of its own

ImportStore = InsertsRows


class _Waiting(NamedTuple):
    line: int
    row: dict[str, Any]
    blobs: Sequence[BlobRow]
    timed: bool


def _named(waiting: _Waiting) -> Named:
    named = named_row("traces", waiting.row)
    return named if waiting.timed else named._replace(at_us=0)


class Storing:
    """Gathers rows into batches.

    `stored` and `present` count what went in and what was there already, `erased` what *erasures* keeps out;
    of a row without a time of its own nobody knows whether it is newer than an erasure, and it is kept out.
    *commit* is called before anything is stored; *refused* is told line and reason of a row that the store
    will never take.
    """

    def __init__(
        self,
        store: ImportStore,
        erasures: ErasureList,
        commit: Callable[[], None],
        refused: Callable[[int, str], None],
    ) -> None:
        self.stored = 0
        self.present = 0
        self.erased = 0
        self._store = store
        self._erasures = erasures
        self._commit = commit
        self._refused = refused
        self._waiting: dict[str, _Waiting] = {}
        self._bytes = 0

    def add(self, line: int, row: Trace, blobs: Sequence[BlobRow], *, timed: bool) -> None:
        """Take a row and what its bodies refer to.

        *timed*: its time is its own, and the same at every import. Raises StoreError.
        """
        if row.trace_id in self._waiting:
            self.present += 1
            return
        size = len(row.request or "") + len(row.response or "") + sum(len(blob.content) for blob in blobs)
        if self._waiting and (self._bytes + size > BATCH_BYTES or len(self._waiting) == BATCH_ROWS):
            self.flush()
        self._waiting[row.trace_id] = _Waiting(line, msgspec.structs.asdict(row), blobs, timed)
        self._bytes += size

    def flush(self) -> None:
        """Store what was taken. Raises StoreError; then the same import again is safe."""
        taken, self._waiting, self._bytes = self._waiting, {}, 0
        with self._erasures.sending() as watch:
            batch = {trace_id: one for trace_id, one in taken.items() if not watch.covers(_named(one))}
            self.erased += len(taken) - len(batch)
            self._store_missing(batch)

    def _store_missing(self, batch: Mapping[str, _Waiting]) -> None:
        missing = self._missing(list(batch.values()))
        self.present += len(batch) - len(missing)
        if not missing:
            return
        self._commit()
        digest = hashlib.sha256("\0".join(row["trace_id"] for row in missing).encode()).hexdigest()
        named = [blob for row in missing for blob in batch[row["trace_id"]].blobs]
        # Of one that rows of several days name, what is needed longest.
        blobs = {blob.blob: blob for blob in sorted(named, key=lambda blob: blob.used_until)}
        self._store_blobs(list(blobs.values()), digest)
        refused = deliver(self._store, "traces", missing, f"import-{digest}", suspect=True)
        for row, reason in refused:
            self._refused(batch[row["trace_id"]].line, reason)
        self.stored += len(missing) - len(refused)

    def _store_blobs(self, blobs: list[BlobRow], digest: str) -> None:
        """First, so that no row refers to what is not there; one that is there is replaced by its equal."""
        if blobs:
            rows = [msgspec.structs.asdict(blob) for blob in blobs]
            refused = deliver(self._store, BLOBS, rows, f"import-{digest}:{BLOBS}", suspect=False)
            if refused:
                raise StoreRefusedError(f"what bodies share cannot be stored: {refused[0][1]}")

    def _missing(self, waiting: list[_Waiting]) -> Rows:
        """Rows that are not in the store, in order. What has no time of its own may be there with another."""
        timed = [one.row for one in waiting if one.timed]
        missing = {row["trace_id"] for row in missing_rows(self._store, "traces", timed)}
        untimed = [one.row["trace_id"] for one in waiting if not one.timed]
        for asked in parts_of(untimed, IDS_PER_QUERY):
            found = self._store.query(
                "SELECT trace_id FROM traces WHERE trace_id IN {ids:Array(String)}", {"ids": asked}
            )
            missing |= set(asked) - {row["trace_id"] for row in found}
        return [one.row for one in waiting if one.row["trace_id"] in missing]
