"""`python -m gateway.traces.recorder --config FILE`: takes captured records from shared memory to the spool.

Each record is written to the spool together with where it came from, and its segment is freed only then.
Killed at any moment, the recorder finds in its open spool file and its progress what it had already written.
So every record gets to the spool once, whatever dies; what cannot be kept is counted by reason.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from gateway.config import Config, load_config
from gateway.config.changes import ConfigChanges
from gateway.errors import KeyringError, OperationError
from gateway.metrics import metrics_directory
from gateway.paths import paths_of
from gateway.traces.bodies.blobs import BlobLedger
from gateway.traces.capture_policy import policy_of
from gateway.traces.dropping import Dropping
from gateway.traces.erasure.erasures import ErasureList, Watch
from gateway.traces.row_builder import keyring_to_write_with, row_builder
from gateway.traces.row_group import GroupBuilder, RowGroup
from gateway.traces.segments import Batch, SegmentReader, writer_began_at
from gateway.traces.spool.backlog import backlog
from gateway.traces.spool.delivered import delivered
from gateway.traces.spool.progress import Progress, load_progress
from gateway.traces.spool.spool import Spool, SpoolBoundError
from gateway.traces.stage import ERASED, Report, Reporter, only_one, run_stage
from gateway.usage_metrics import UsageMetrics

log = logging.getLogger(__name__)

POLL_S = 0.1
RETRY_S = 1.0  # after the disk or the bound refused
GROUP_BYTES = 1 << 20  # rows are written in groups of about this size; a small spool makes smaller ones
HOUSEKEEPING_S = 1.0
DAY_S = 86400


class Recorder:
    """One recorder on one data directory. `step` does what there is to do; it never blocks for long."""

    def __init__(self, config: Config, *, sync: Callable[[int], None] = os.fdatasync) -> None:
        paths = paths_of(config)
        self._reader = SegmentReader(paths.segments)
        self._drop_oldest = config.capture.at_bound == "drop_oldest"
        max_age_s = config.capture.max_age_days * DAY_S
        self._spool = Spool(
            paths.spool,
            fsync=config.capture.fsync,
            max_bytes=config.capture.max_bytes,
            # With drop_oldest nothing new has to wait for what is old: `_housekeep` drops that.
            max_age_s=math.inf if self._drop_oldest else max_age_s,
            sync=sync,
        )
        self._group_bytes = min(GROUP_BYTES, config.capture.max_bytes // 16)
        self._progress_path = paths.spool / "recorder.json"
        self._progress = Progress()
        self._unsaved = False  # it counts what no row in the spool tells
        self._reporter = Reporter(paths.state / "recorder.json", paths.stages / "recorder.json")
        # Up to when all of a segment was taken. What the recorder before this one last said is as good.
        self._taken_until: dict[str, float] = {}
        self._looked_through_at = self._reporter.last().updated_at  # a segment not known then is younger
        self._usage = UsageMetrics(metrics_directory(paths), f"recorder-{os.getpid()}-{time.time_ns()}")
        self._keyring = keyring_to_write_with(config)
        self._blobs = BlobLedger()
        self._delivered = partial(delivered, paths.spool)
        self._redaction_key = paths.state / "redaction_key"
        self._rows = row_builder(config, self._keyring)
        self._groups = GroupBuilder(self._rows, self._blobs, config.capture.max_bytes // 4)
        self._erasures = ErasureList(paths.state)
        self._watch: Watch | None = None
        self._error: str | None = None
        self._housekeeping_at = 0.0
        self._recover()
        self._dropping = Dropping(self._reader, self._spool, self._progress, self._progress_path, max_age_s)

    def follow(self, config: Config) -> None:
        """Keep and redact what is taken from now on as *config* says. Raises OperationError."""
        self._rows.policy = policy_of(config, self._redaction_key)

    def step(self) -> bool:
        """Take what lies in shared memory. False: the disk or the bound refuses, and nothing is lost yet."""
        began_at = time.time()
        try:
            if self._spool.torn_for is not None:
                self._step_over(self._spool.torn_for)
            for path in self._reader.segments():
                with self._erasures.held() as watch:
                    if watch is not self._watch:
                        self._blobs.forget()  # who was erased and comes back has nothing in the store
                        self._watch = watch
                    self._take(path, watch)
            self._looked_through_at = began_at
            self._housekeep()
            if self._spool.due():
                self._seal()
            self._spool.sync_when_due()
        except KeyringError as error:
            self._say(str(error))
            self._report(force=False)
            return False
        except (OSError, OperationError) as error:
            self._say(f"spool: {error.strerror if isinstance(error, OSError) else error}")
            if self._drop_oldest:  # else memory keeps what it has
                self._dropping.expire()
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
        if self._keyring is not None:
            self._keyring.close()

    def _recover(self) -> None:
        try:
            self._progress = load_progress(self._progress_path)
        except msgspec.DecodeError:
            log.warning("%s is damaged; rows still in memory may be stored twice", self._progress_path)
        for path, contents, refused in self._spool.recover():
            if contents is None:
                self._progress.torn += 1
                log.warning("spool file %s cannot be read (%s) and is left as it is", path.name, refused)
                continue
            self._progress.absorb(contents)
            if contents.torn_bytes:
                self._progress.torn += 1
                what = "cut" if refused is None else f"could not cut ({refused.strerror})"
                log.warning("%s %d torn bytes off spool file %s", what, contents.torn_bytes, path.name)
            self._progress.save(self._progress_path)
            self._spool.seal_or_leave(path)

    def _step_over(self, why: OSError) -> None:
        """Go on with a new file where nothing may be written behind the torn tail of the open one.

        What of the rows that the disk refused is whole in it is learnt from it, as after a restart.
        """
        name = self._spool.sealed_name
        try:
            self._progress.absorb(self._spool.read_open())
        except OSError as error:
            log.warning("spool file %s cannot be read (%s); its last rows may be stored twice", name, error)
        self._seal()
        self._progress.torn += 1
        self._unsaved = True
        log.warning(
            "could not cut the torn tail of spool file %s (%s); a new one is begun", name, why.strerror
        )

    def _take(self, path: Path, watch: Watch) -> None:
        end, count = self._progress.position(path.name)
        looked_at = time.time()
        batch = self._reader.read(path, end)
        if batch is None:
            return
        group = RowGroup()
        for record in batch.records:
            self._groups.add(group, record, path.name, (end, count), watch)
            end, count = record.end, count + 1
            if group.size >= self._group_bytes:
                self._write(path.name, group, end, count)
                group = RowGroup()
        if batch.records:
            self._write(path.name, group, end, count)
        self._taken_until[path.name] = looked_at
        if batch.finished:
            self._free(path, batch)

    def _write(self, segment: str, group: RowGroup, end: int, count: int) -> None:
        if group.payloads:
            if self._keyring is not None:
                self._keyring.commit()  # what no key is kept for must not reach the disk
            try:
                self._spool.append(group.payloads)
            except SpoolBoundError:
                if not self._drop_oldest:
                    raise
                self._dropping.make_room(group.payloads)
                self._spool.append(group.payloads)
        self._progress.positions[segment] = (end, count)
        self._progress.written += group.rows
        if group.erased or group.unkept:
            self._progress.drop(ERASED, group.erased)
            self._progress.quarantined += group.unkept
            self._unsaved = True
        self._blobs.wrote(group.blobs)
        self._usage.count(group.answers)
        if self._spool.due():
            self._seal()
        self._report(force=False)

    def _free(self, path: Path, batch: Batch) -> None:
        if batch.torn_bytes:
            with self._progress.counting(self._progress_path):
                self._progress.torn += 1
            log.warning("cut %d torn bytes off segment %s", batch.torn_bytes, path.name)
        elif self._unsaved:
            self._save()
        self._reader.free(path)

    def _save(self) -> None:
        self._progress.save(self._progress_path)
        self._unsaved = False

    def _seal(self) -> None:
        self._save()  # before the shipper can delete what says the same
        name = self._spool.sealed_name
        self._spool.seal()
        self._blobs.sealed(name)
        # Only now may positions in segments that are gone be forgotten: while the file was open, a restart
        # would have taken its rows for new ones.
        if self._spool.left:
            return
        present = {path.name for path in self._reader.segments()}
        evicted = {segment for _, segment, _ in self._reader.tombstones()}  # one of the two, in this order
        self._progress.forget_except(present | evicted)
        self._taken_until = {name: at for name, at in self._taken_until.items() if name in present}

    def _housekeep(self) -> None:
        """Drop what has waited too long, and count what writers evicted."""
        if time.monotonic() < self._housekeeping_at:
            return
        self._housekeeping_at = time.monotonic() + HOUSEKEEPING_S
        self._spool.seal_left()
        if self._drop_oldest:
            self._dropping.let_go_of_the_old()
        self._blobs.look({path.name for path in self._spool.sealed()}, self._delivered)
        tombstones = self._reader.tombstones()
        for _, segment, held in tombstones:
            end, count = self._progress.position(segment)
            self._progress.drop("memory_bound", held - count)
            self._progress.positions[segment] = (end, held)  # told twice, it counts once
        if tombstones:
            self._save()
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
        taken = (
            (path, self._progress.position(path.name)[0], self._waits_since(path.name))
            for path in self._reader.segments()
        )
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

    def _waits_since(self, segment: str) -> float | None:
        """Since when the oldest record of *segment* that was not taken may wait."""
        known = self._taken_until.get(segment)
        return known or max(self._looked_through_at, writer_began_at(segment)) or None


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
