"""Rows that are written to the spool together, built from records of shared memory."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

from gateway.errors import KeyringError
from gateway.traces.bodies.blobs import BlobLedger, BlobRow
from gateway.traces.erasure.erasures import Watch
from gateway.traces.rows import Row, RowBuilder, without_bodies
from gateway.traces.segment_files import is_scrubbed
from gateway.traces.segments import Record
from gateway.traces.spool.progress import Position
from gateway.traces.spool.spool_file import encode_record, framed_size
from gateway.traces.types import BLOBS, CapturedTrace, Trace
from gateway.usage_metrics import Answer, answer_of

log = logging.getLogger(__name__)


class RowGroup:
    """Rows, each behind the blobs that it needs, what they say that was used, and what becomes no row.

    `erased` counts records of somebody who was erased, `unkept` those that cannot be kept at all. They count
    when the group is written: one that the disk refuses is built again.
    """

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.answers: list[Answer] = []
        self.blobs: dict[str, datetime] = {}
        self.rows = 0
        self.size = 0
        self.erased = 0
        self.unkept = 0

    def add(self, payloads: list[bytes], blobs: list[BlobRow], answer: Answer | None) -> None:
        """Add a row, the last of *payloads*, and what it refers to."""
        self.payloads += payloads
        self.blobs.update((blob.blob, blob.used_until) for blob in blobs)
        self.rows += 1
        self.size += framed_size(payloads)
        if answer is not None:
            self.answers.append(answer)


class GroupBuilder:
    """Adds records to groups. A row of more than *record_bytes* is kept without its bodies."""

    def __init__(self, rows: RowBuilder, blobs: BlobLedger, record_bytes: int) -> None:
        self._rows = rows
        self._blobs = blobs
        self._record_bytes = record_bytes

    def add(self, group: RowGroup, record: Record, segment: str, before: Position, watch: Watch) -> None:
        """Add the spool's form of *record*, which begins at *before* of *segment*. Raises KeyringError."""
        if self._is_erased(record, watch):
            group.erased += 1
        elif record.captured is None or not self._add_row(group, record, segment, before):
            group.unkept += 1
            log.warning("a record of %d bytes in %s cannot be kept", len(record.meta), segment)

    def _is_erased(self, record: Record, watch: Watch) -> bool:
        """Whether *record* belongs to what was erased, and must not be written down any more."""
        if record.captured is None:
            return is_scrubbed(record.meta)
        captured = record.captured
        if not watch or (isinstance(captured, CapturedTrace) and watch.is_over_at(captured.started_at_us)):
            return False  # without asking for its names, which costs a tenth of its row
        named = self._rows.named(captured)
        return named is not None and watch.covers(named)

    def _add_row(self, group: RowGroup, record: Record, segment: str, before: Position) -> bool:
        # Whatever one body does to us, its row is kept, and the rest of the segment in any case.
        for attempt in (record, without_bodies(record)):
            try:
                row = self._rows.build(attempt)
                blobs = self._blobs.missing(list(row.blobs), group.blobs)
                payloads = [encode_record(segment, *before, BLOBS, blob) for blob in blobs]
                payloads.append(encode_record(segment, record.end, before[1] + 1, row.table, row.values))
            except KeyringError:
                raise  # not the record's fault, and it waits where it is
            except Exception as error:  # noqa: BLE001 -- see above; told by type and place, never by text
                log.warning("a record cannot be built: %s in %s", type(error).__name__, _place(error))
                continue
            if framed_size(payloads) <= self._record_bytes:
                group.add(payloads, blobs, _answer_of(record, row))
                return True
        return False


def _answer_of(record: Record, row: Row) -> Answer | None:
    captured, values = record.captured, row.values
    if not isinstance(captured, CapturedTrace) or not isinstance(values, Trace) or row.usage is None:
        return None
    return answer_of(captured, row.usage, values.cost_usd)


def _place(error: BaseException) -> str:
    """File and line where *error* came from: no text of anybody, unlike its message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
