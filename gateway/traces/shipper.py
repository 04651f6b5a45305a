"""`python -m gateway.traces.shipper --config FILE`: takes sealed spool files to the store, oldest first.

A file is deleted only after the store has confirmed its rows; an outage is waited out, for any length. What
the store will never take goes to `quarantine/` in the spool, with the reason, and blocks nothing. Where all
of a file is refused for a reason that does not tell whose fault it is, the file stands back: if the store
takes other files meanwhile, and this one still not after HELD_TRIES, it is the rows (`held_files.py`).

How far a file's delivery may have got is written down in its mode (`in_hand.py`), for the next shipper.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import tenacity
from clickhouse_connect.driver import options as driver_options

from gateway.config import Config, load_config
from gateway.errors import OperationError, StoreError, StoreRefusedError
from gateway.paths import paths_of
from gateway.traces.delivery import Rows, deliver
from gateway.traces.erasure.erasures import ErasureList, is_kept_out
from gateway.traces.held_files import HeldFiles
from gateway.traces.in_hand import InHand
from gateway.traces.layout import layout_of
from gateway.traces.migrate import migrate
from gateway.traces.retention import keep_retention
from gateway.traces.spool.backlog import spool_backlog, spool_files
from gateway.traces.spool.delivered import Deliveries
from gateway.traces.spool.quarantine import Entry, damaged, set_aside
from gateway.traces.spool.spool_file import SpoolContents, claim, read_spool, sealed_files
from gateway.traces.stage import Reporter, only_one, run_stage
from gateway.traces.store import Store
from gateway.traces.types import BLOBS

log = logging.getLogger(__name__)

POLL_S = 0.2
GREET_EVERY_S = 5.0  # with nothing to ship: how often a store that was never reached is tried
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.25, 5.0
QUARANTINE_BYTES = 100_000_000


class Stopped(Exception):  # noqa: N818 -- how a wait ends, not a failure
    """The process was asked to stop while it waited for the store; the file at hand stays."""


class QuarantineError(OperationError):
    """The disk does not take what was refused; its file stands back, and the others are shipped."""


class Shipper:
    """One shipper on one spool. `connect` opens the store, with its tables as this version needs them."""

    def __init__(
        self,
        spool: Path,
        state: Path,
        connect: Callable[[], Store],
        stop: threading.Event,
        *,
        quarantine_bytes: int = QUARANTINE_BYTES,
        spare_report: Path | None = None,
    ) -> None:
        self._spool = spool
        self._erasures = ErasureList(state)
        self._deliveries = Deliveries(spool)
        self._connect = connect
        self._stop = stop
        self._quarantine_bytes = quarantine_bytes
        self._store: Store | None = None
        self._greet_at = 0.0
        self._reporter = Reporter(state / "shipper.json", spare_report)
        self._counts = self._reporter.last()
        self._away: str | None = None  # what is wrong with the store
        self._held = HeldFiles()

    def step(self) -> bool:
        """Ship the oldest file that does not stand back. False: there is none. Raises Stopped."""
        for path in sealed_files(self._spool):
            if self._held.stands_back(path.name):
                continue
            fd = claim(path)
            if fd is None:
                continue  # the recorder is dropping it
            try:
                self._ship(path, fd)
            except (StoreRefusedError, QuarantineError) as error:
                self._held.hold(path.name, error)
            finally:
                os.close(fd)
            self.report()
            return True
        self.greet()
        self.report()
        return False

    def report(self, *, force: bool = False) -> None:
        """Publish the counters, at most each second."""
        if not (force or self._reporter.due()):
            return
        self._held.keep_only({path.name for path in spool_files(self._spool)})
        self._counts.errors = self._away or self._held.why
        self._counts.backlog_bytes, self._counts.oldest_age_s = spool_backlog(self._spool)
        self._reporter.publish(self._counts)

    def close(self) -> None:
        """Report, and close the connection."""
        self.report(force=True)
        if self._store is not None:
            self._store.close()

    def _ship(self, path: Path, fd: int) -> None:
        hand = InHand(fd)
        contents = read_spool(path)
        if contents.torn_bytes:
            self._counts.torn += 1
            log.warning("cut %d torn bytes off spool file %s", contents.torn_bytes, path.name)
        hand.begin()
        aside = [damaged(payload) for payload in contents.damaged]
        shipped = 0
        for table, rows in _by_table(contents).items():
            refused = self._until_stored(path.name, table, rows, hand)
            aside += [Entry(reason=reason, table=table, row=row) for row, reason in refused]
            if table != BLOBS:
                shipped += len(rows) - len(refused)
            elif not refused:
                self._deliveries.put_down(path.name, _relied_on(rows))
        with self._erasures.held() as watch:
            aside = [entry for entry in aside if not is_kept_out(watch, entry.table, entry.row)]
            if aside:
                self._set_aside(path.stem, aside)
        path.unlink()
        self._held.stored(path.name)
        self._counts.written += shipped
        self._counts.quarantined += len(aside)

    def greet(self) -> None:
        """Connect before there is anything to ship, so that a store out of reach is said at once."""
        if self._store is not None or time.monotonic() < self._greet_at:
            return
        self._greet_at = time.monotonic() + GREET_EVERY_S
        try:
            self._store = self._connect()
        except StoreError as error:
            self._say(error)
        else:
            self._away = None

    def _say(self, error: StoreError) -> None:
        if self._away != str(error):
            log.warning("%s; rows wait in the spool", error)
        self._away = str(error)

    def _until_stored(self, name: str, table: str, rows: Rows, hand: InHand) -> list[tuple[Any, str]]:
        """Deliver, however long the store is away; what it will never take comes back.

        Raises Stopped, and StoreRefusedError where all are refused and nothing tells whose fault it is.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_about_store),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            sleep=self._wait,
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                suspect = hand.begun or attempt.retry_state.attempt_number > 1
                refused = self._try(name, table, rows, hand, suspect=suspect)
        if self._away is not None:
            log.info("the store takes rows again")
            self._away = None
        return refused

    def _try(
        self, name: str, table: str, rows: Rows, hand: InHand, *, suspect: bool
    ) -> list[tuple[Any, str]]:
        try:
            if self._store is None:
                self._store = self._connect()
            # Asked anew at each try: an erasure that was made meanwhile must find nothing on its way.
            with self._erasures.sending() as watch:
                return deliver(
                    self._store,
                    table,
                    [row for row in rows if not is_kept_out(watch, table, row)],
                    f"{name}:{table}",
                    suspect=suspect,
                    in_parts=hand.in_parts,
                    go_in_parts=hand.go_in_parts,
                    blame_rows=self._held.is_blamed(name),
                )
        except StoreError as error:
            if self._store is not None:
                self._store.close()  # the next try connects, and migrates what is new or came back empty
                self._store = None
            if _is_about_store(error):
                self._say(error)
            raise

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.report()
            if self._stop.wait(min(left, POLL_S)):
                raise Stopped

    def _set_aside(self, stem: str, entries: list[Entry]) -> None:
        try:
            dropped = set_aside(self._spool, stem, entries, max_bytes=self._quarantine_bytes)
        except OSError as error:
            raise QuarantineError(f"refused rows cannot be set aside: {error.strerror}; free some") from error
        log.warning("%d rows were refused and set aside: tracetune traces quarantine", len(entries))
        if dropped:
            reason = "quarantine_bound"
            self._counts.dropped[reason] = self._counts.dropped.get(reason, 0) + dropped
            log.warning("dropped %d rows of the quarantine; raise capture.quarantine_bytes", dropped)


def _is_about_store(error: BaseException) -> bool:
    """Whether to wait: for a store that is away or not itself, not for a refusal of these rows."""
    return isinstance(error, StoreError) and (not isinstance(error, StoreRefusedError) or error.about_store)


def _by_table(contents: SpoolContents) -> dict[str, Rows]:
    tables: dict[str, Rows] = {}
    for record in contents.records:
        tables.setdefault(record.table, []).append(msgspec.msgpack.decode(record.row))
    # Blobs first: no row is ever in the store without what it refers to.
    return dict(sorted(tables.items(), key=lambda item: item[0] != BLOBS))


def _relied_on(blobs: Rows) -> dict[str, datetime]:
    """Until when each of *blobs*, rows of that table, is relied on; of one that is there twice the later."""
    return {row["blob"]: row["used_until"] for row in sorted(blobs, key=itemgetter("used_until"))}


def open_migrated(config: Config) -> Store:
    """The store of *config* with the tables of this version. Raises StoreError."""
    store = Store.connect(config)
    try:
        migrate(store, layout=layout_of(config.store))
    except StoreError:
        store.close()
        raise
    return store


def main(config_path: Path, stop: threading.Event) -> None:
    """Ship until *stop* is set. Raises ConfigError, OperationError."""
    config = load_config(config_path)
    paths = paths_of(config)
    # Asked whether our rows are a frame of pandas, the driver would load it where it is installed: a second.
    driver_options.pd = driver_options.pd_time_test = None
    with only_one(paths.spool / "shipper.lock", "shipper"):
        shipper = Shipper(
            paths.spool,
            paths.state,
            lambda: open_migrated(config),
            stop,
            quarantine_bytes=config.capture.quarantine_bytes,
            spare_report=paths.stages / "shipper.json",
        )
        if not config.store.embedded:  # an embedded store lets go of its rows itself
            keeping = (lambda: Store.connect(config), config.store, stop)
            threading.Thread(target=keep_retention, args=keeping, name="retention", daemon=True).start()
        log.info("ready")
        try:
            while not stop.is_set():
                if not shipper.step():
                    stop.wait(POLL_S)
        except Stopped:
            log.info("stopped while the store is away; rows wait in the spool")
        except OSError as error:
            raise OperationError(f"spool {paths.spool} cannot be used: {error.strerror}") from error
        finally:
            shipper.close()


if __name__ == "__main__":
    sys.exit(run_stage("gateway.traces.shipper", main))
