"""`python -m gateway.traces.shipper --config FILE`: takes sealed spool files to the store, oldest first.

A file is deleted only after the store has confirmed its rows; an outage is waited out, for any length. What
the store will never take goes to `quarantine/` in the spool, with the reason, and blocks nothing.
"""

from __future__ import annotations

import base64
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import tenacity

from gateway.config import Config, load_config
from gateway.errors import OperationError, StoreError
from gateway.paths import paths_of
from gateway.traces.delivery import Rows, deliver
from gateway.traces.erasures import ErasureList, Watch, named_row
from gateway.traces.migrate import migrate
from gateway.traces.replace import replace_file
from gateway.traces.spool import SpoolContents, claim, read_spool, sealed_files
from gateway.traces.stage import Reporter, backlog, only_one, run_stage
from gateway.traces.store import Store

log = logging.getLogger(__name__)

POLL_S = 0.2
GREET_EVERY_S = 5.0  # with nothing to ship: how often a store that was never reached is tried
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.25, 5.0
QUARANTINE = "quarantine"


class Stopped(Exception):  # noqa: N818 -- how a wait ends, not a failure
    """The process was asked to stop while it waited for the store; the file at hand stays."""


class Shipper:
    """One shipper on one spool. `connect` opens the store, with its tables as this version needs them."""

    def __init__(self, spool: Path, state: Path, connect: Callable[[], Store], stop: threading.Event) -> None:
        self._spool = spool
        self._erasures = ErasureList(state)
        self._connect = connect
        self._stop = stop
        self._store: Store | None = None
        self._greet_at = 0.0
        self._reporter = Reporter(state / "shipper.json")
        self._counts = self._reporter.last()
        self._counts.errors = None
        # The file that a killed shipper had in hand was the oldest one: it may be stored already.
        self._suspects = {path.name for path in sealed_files(spool)[:1]}

    def step(self) -> bool:
        """Ship the oldest file. False: there is none. Raises Stopped."""
        for path in sealed_files(self._spool):
            fd = claim(path)
            if fd is None:
                continue  # the recorder is dropping it
            try:
                self._ship(path)
            finally:
                os.close(fd)
            self.report()
            return True
        self._greet()
        self.report()
        return False

    def report(self, *, force: bool = False) -> None:
        """Publish the counters, at most each second."""
        if not (force or self._reporter.due()):
            return
        sealed = ((path, 0) for path in sealed_files(self._spool))
        self._counts.backlog_bytes, self._counts.oldest_age_s = backlog(sealed)
        self._reporter.publish(self._counts)

    def close(self) -> None:
        """Report, and close the connection."""
        self.report(force=True)
        if self._store is not None:
            self._store.close()

    def _ship(self, path: Path) -> None:
        contents = read_spool(path)
        if contents.torn_bytes:
            self._counts.torn += 1
            log.warning("cut %d torn bytes off spool file %s", contents.torn_bytes, path.name)
        aside = [
            {"reason": "its checksum does not hold", "data": base64.b64encode(payload).decode()}
            for payload in contents.damaged
        ]
        shipped = 0
        for table, rows in _by_table(contents).items():
            refused = self._until_stored(path.name, table, rows)
            aside += [{"reason": reason, "table": table, "row": row} for row, reason in refused]
            shipped += len(rows) - len(refused)
        with self._erasures.held() as watch:
            aside = [entry for entry in aside if not _is_erased(watch, entry.get("table"), entry.get("row"))]
            if aside:
                self._set_aside(path.stem, aside)
        path.unlink()
        self._suspects.discard(path.name)
        self._counts.written += shipped
        self._counts.quarantined += len(aside)

    def _greet(self) -> None:
        """Connect before there is anything to ship, so that a store out of reach is said at once."""
        if self._store is not None or time.monotonic() < self._greet_at:
            return
        self._greet_at = time.monotonic() + GREET_EVERY_S
        try:
            self._store = self._connect()
        except StoreError as error:
            self._say(error)
        else:
            self._counts.errors = None

    def _say(self, error: StoreError) -> None:
        if self._counts.errors != str(error):
            log.warning("%s; rows wait in the spool", error)
        self._counts.errors = str(error)

    def _until_stored(self, name: str, table: str, rows: Rows) -> list[tuple[Any, str]]:
        """Deliver, however long the store is away; what it will never take comes back. Raises Stopped."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StoreError),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            sleep=self._wait,
        )
        refused: list[tuple[Any, str]] = retrying(self._try, name, table, rows)
        if self._counts.errors is not None:
            log.info("the store takes rows again")
            self._counts.errors = None
        return refused

    def _try(self, name: str, table: str, rows: Rows) -> list[tuple[Any, str]]:
        try:
            if self._store is None:
                self._store = self._connect()
            # Asked anew at each try: an erasure that was made meanwhile must find nothing on its way.
            with self._erasures.held() as watch:
                rows = [row for row in rows if not _is_erased(watch, table, row)]
                return deliver(self._store, table, rows, f"{name}:{table}", suspect=name in self._suspects)
        except StoreError as error:
            self._suspects.add(name)
            if self._store is not None:
                self._store.close()  # the next try connects, and migrates what is new or came back empty
                self._store = None
            self._say(error)
            raise

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.report()
            if self._stop.wait(min(left, POLL_S)):
                raise Stopped

    def _set_aside(self, stem: str, entries: list[dict[str, Any]]) -> None:
        """Write the quarantine file of one spool file, as a whole, so that a repetition is no duplicate."""
        folder = self._spool / QUARANTINE
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{stem}.jsonl"
        replace_file(path, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        log.warning("%d rows were refused and set aside in %s", len(entries), path)


def _is_erased(watch: Watch, table: Any, row: Any) -> bool:
    """Whether *row* of *table* was erased while it was on its way."""
    if not watch or table not in {"traces", "feedback"} or not isinstance(row, dict):
        return False
    return watch.covers(named_row(table, row))


def _by_table(contents: SpoolContents) -> dict[str, Rows]:
    tables: dict[str, Rows] = {}
    for record in contents.records:
        tables.setdefault(record.table, []).append(msgspec.msgpack.decode(record.row))
    return tables


def open_migrated(config: Config) -> Store:
    """The store of *config* with the tables of this version. Raises StoreError."""
    store = Store.connect(config)
    try:
        migrate(store)
    except StoreError:
        store.close()
        raise
    return store


def main(config_path: Path, stop: threading.Event) -> None:
    """Ship until *stop* is set. Raises ConfigError, OperationError."""
    config = load_config(config_path)
    paths = paths_of(config)
    with only_one(paths.spool / "shipper.lock", "shipper"):
        shipper = Shipper(paths.spool, paths.state, lambda: open_migrated(config), stop)
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
