"""`python -m gateway.traces.recorder --config FILE`: takes captured records from shared memory to the spool.

Each record is written to the spool together with where it came from, and its segment is freed only then.
Killed at any moment, the recorder finds in its open spool file and its progress what it had already written.
So every record gets to the spool once, whatever dies; what cannot be kept is counted by reason.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from gateway.config import Config, load_config
from gateway.config.changes import ConfigChanges
from gateway.errors import OperationError
from gateway.metrics import metrics_directory
from gateway.paths import paths_of
from gateway.traces.capture_policy import policy_of
from gateway.traces.progress import Progress, load_progress
from gateway.traces.rows import Row, RowBuilder, without_bodies
from gateway.traces.segments import Batch, Record, SegmentReader
from gateway.traces.spool import Spool, SpoolBoundError, encode_record, seal_file
from gateway.traces.stage import Report, Reporter, backlog, only_one, run_stage
from gateway.traces.types import CapturedTrace, Trace
from gateway.usage_metrics import Answer, UsageMetrics, answer_of

log = logging.getLogger(__name__)

POLL_S = 0.1
RETRY_S = 1.0  # after the disk or the bound refused
GROUP_BYTES = 1 << 20  # rows are written in groups of about this size; a small spool makes smaller ones
HOUSEKEEPING_S = 1.0


class _Group:
    """Rows that are written together, and what they say that was used."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.answers: list[Answer] = []
        self.size = 0

    def add(self, payload: bytes, answer: Answer | None) -> None:
        self.payloads.append(payload)
        self.size += len(payload)
        if answer is not None:
            self.answers.append(answer)


class Recorder:
    """One recorder on one data directory. `step` does what there is to do; it never blocks for long."""

    def __init__(self, config: Config) -> None:
        paths = paths_of(config)
        self._reader = SegmentReader(paths.segments)
        self._spool = Spool(paths.spool, fsync=config.capture.fsync, max_bytes=config.capture.max_bytes)
        self._group_bytes = min(GROUP_BYTES, config.capture.max_bytes // 16)
        self._record_bytes = config.capture.max_bytes // 4  # a larger row is kept without its bodies
        self._drop_oldest = config.capture.at_bound == "drop_oldest"
        self._progress_path = paths.spool / "recorder.json"
        self._progress = Progress()
        self._reporter = Reporter(paths.state / "recorder.json")
        self._usage = UsageMetrics(metrics_directory(paths), f"recorder-{os.getpid()}-{time.time_ns()}")
        self._redaction_key = paths.state / "redaction_key"
        self._rows = RowBuilder(policy_of(config, self._redaction_key))
        self._error: str | None = None
        self._housekeeping_at = 0.0
        self._recover()

    def follow(self, config: Config) -> None:
        """Keep and redact what is taken from now on as *config* says. Raises OperationError."""
        self._rows.policy = policy_of(config, self._redaction_key)

    def step(self) -> bool:
        """Take what lies in shared memory. False: the disk or the bound refuses, and nothing is lost yet."""
        try:
            for path in self._reader.segments():
                self._take(path)
            self._housekeep()
            if self._spool.due():
                self._seal()
        except (OSError, SpoolBoundError) as error:
            self._say(f"spool: {error.strerror if isinstance(error, OSError) else error}")
            self._report(force=False)
            return False
        self._say(None)
        self._report(force=False)
        return True

    def close(self) -> None:
        """Take what is left, seal and report."""
        if self.step() and self._spool.holds_rows:
            self._seal()
        self._report(force=True)
        self._usage.close()

    def _recover(self) -> None:
        try:
            self._progress = load_progress(self._progress_path)
        except msgspec.DecodeError:
            log.warning("%s is damaged; rows still in memory may be stored twice", self._progress_path)
        for path, contents in self._spool.recover():
            self._progress.absorb(contents)
            if contents.torn_bytes:
                self._progress.torn += 1
                log.warning("cut %d torn bytes off spool file %s", contents.torn_bytes, path.name)
            self._progress.save(self._progress_path)
            seal_file(path)

    def _take(self, path: Path) -> None:
        end, count = self._progress.position(path.name)
        batch = self._reader.read(path, end)
        if batch is None:
            return
        group = _Group()
        for record in batch.records:
            end, count = record.end, count + 1
            self._build(group, path.name, record, count)
            if group.size >= self._group_bytes:
                self._write(path.name, group, end, count)
                group = _Group()
        if batch.records:
            self._write(path.name, group, end, count)
        if batch.finished:
            self._free(path, batch)

    def _build(self, group: _Group, segment: str, record: Record, count: int) -> None:
        """Add the spool's form of *record* to *group*; one that cannot be kept at all is counted."""
        if record.captured is not None:
            # Whatever one body does to us, its row is kept, and the rest of the segment in any case.
            for attempt in (record, without_bodies(record)):
                try:
                    row = self._rows.build(attempt)
                    payload = encode_record(segment, record.end, count, row.table, row.values)
                except Exception as error:  # noqa: BLE001 -- see above; told by type and place, never by text
                    log.warning("a record cannot be built: %s in %s", type(error).__name__, _place(error))
                    continue
                if len(payload) <= self._record_bytes:
                    group.add(payload, _answer_of(record, row))
                    return
        self._progress.quarantined += 1
        log.warning("a record of %d bytes in %s cannot be kept", len(record.meta), segment)

    def _write(self, segment: str, group: _Group, end: int, count: int) -> None:
        if group.payloads:
            try:
                self._spool.append(group.payloads)
            except SpoolBoundError:
                if not self._drop_oldest:
                    raise
                self._make_room(group.size)
                self._spool.append(group.payloads)
        self._progress.positions[segment] = (end, count)
        self._progress.written += len(group.payloads)
        self._usage.count(group.answers)
        if self._spool.due():
            self._seal()
        self._report(force=False)

    def _make_room(self, size: int) -> None:
        """Drop the oldest sealed files that the shipper does not have in hand, counted, until *size* fits."""
        for path in self._spool.sealed():
            if size <= 0:
                break
            size -= self._spool.drop(path, self._account_dropped)

    def _account_dropped(self, count: int) -> None:
        self._progress.drop("spool_bound", count)
        self._progress.save(self._progress_path)
        log.warning("dropped %d rows: the spool is full; raise capture.max_bytes", count)

    def _free(self, path: Path, batch: Batch) -> None:
        if batch.torn_bytes:
            self._progress.torn += 1
            self._progress.save(self._progress_path)
            log.warning("cut %d torn bytes off segment %s", batch.torn_bytes, path.name)
        self._reader.free(path)

    def _seal(self) -> None:
        self._progress.save(self._progress_path)  # before the shipper can delete what says the same
        self._spool.seal()
        # Only now may positions in segments that are gone be forgotten: while the file was open, a restart
        # would have taken its rows for new ones.
        present = {path.name for path in self._reader.segments()}
        evicted = {segment for _, segment, _ in self._reader.tombstones()}  # one of the two, in this order
        self._progress.forget_except(present | evicted)

    def _housekeep(self) -> None:
        """Count what writers evicted."""
        if time.monotonic() < self._housekeeping_at:
            return
        self._housekeeping_at = time.monotonic() + HOUSEKEEPING_S
        tombstones = self._reader.tombstones()
        for _, segment, held in tombstones:
            end, count = self._progress.position(segment)
            self._progress.drop("memory_bound", held - count)
            self._progress.positions[segment] = (end, held)  # told twice, it counts once
        if tombstones:
            self._progress.save(self._progress_path)
        for path, _, _ in tombstones:
            path.unlink(missing_ok=True)

    def _say(self, error: str | None) -> None:
        if error is not None and error != self._error:
            log.warning("%s; traces wait in shared memory", error)
        elif error is None and self._error is not None:
            log.info("the spool takes rows again")
        self._error = error

    def _report(self, *, force: bool) -> None:
        if not (force or self._reporter.due()):
            return
        taken = ((path, self._progress.position(path.name)[0]) for path in self._reader.segments())
        backlog_bytes, oldest_age_s = backlog(taken)
        self._reporter.publish(
            Report(
                written=self._progress.written,
                dropped=self._progress.dropped,
                torn=self._progress.torn,
                quarantined=self._progress.quarantined,
                backlog_bytes=backlog_bytes,
                oldest_age_s=oldest_age_s,
                errors=self._error,
            )
        )


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


def main(config_path: Path, stop: threading.Event) -> None:
    """Record until *stop* is set. Raises ConfigError, OperationError."""
    config = load_config(config_path)
    spool = paths_of(config).spool
    with only_one(spool / "recorder.lock", "recorder"):
        try:
            recorder = Recorder(config)
        except OSError as error:
            raise OperationError(f"spool {spool} cannot be used: {error.strerror}") from error
        log.info("ready")
        changes = ConfigChanges(config_path)
        while not stop.is_set():
            # Before looking what was captured: what came after a change is kept as it says.
            if (changed := changes.take()) is not None:
                try:
                    recorder.follow(changed)
                except OperationError as error:
                    log.warning("%s; what is captured is redacted as before", error)
            stop.wait(POLL_S if recorder.step() else RETRY_S)
        recorder.close()


if __name__ == "__main__":
    sys.exit(run_stage("gateway.traces.recorder", main))
