"""One judge that follows the store: new traces first, then whatever else it has not judged, forever.

A thread of its own with a connection of its own, so that a judge that hangs delays no other. It keeps nothing
that it could not ask for again: killed at any point, the next one goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from gateway.config import Config, JudgeConfig
from gateway.errors import TracetuneError
from gateway.traces.store import Store
from judges.budget import Budget
from judges.definition import definition_of, files_of
from judges.errors import JudgeError, JudgeFileError
from judges.executor import Executor, executor_of
from judges.passes import Tally, judge_traces, version_of
from judges.pending import (
    Arrivals,
    Due,
    JudgeVersion,
    Since,
    Window,
    arrivals,
    due,
    store_clock,
    windows,
)
from judges.rows import SESSION_BATCH_TRACES

POLL_S = 1.0
PASS_S = 2.0  # after which new traces and a new version are looked for again
PAGE_TRACES = 1000
OVERLAP_S = 15.0  # rows may become visible this much out of order; the sweep finds all others
SWEEP_EVERY_S = 600.0  # over all traces; new ones and late feedback are followed without it
MAX_LOOK_S = 10.0  # between two looks for sessions that are over; less than what the looks overlap
REPORT_EVERY_S = 60.0
FIRST_BACK_OFF_S = 0.5
LAST_BACK_OFF_S = 15.0
RETRY_FILE_S = 30.0  # a file that could not be used is tried again then, or as soon as it changes

_NEVER_LOOKED = object()
_log = logging.getLogger("tracetune.judges")


class JudgeFollower:
    """Judges until *stop* is set: `run` returns soon after, and leaves nothing running."""

    def __init__(
        self, config: Config, settings: JudgeConfig, connect: Callable[[], Store], stop: threading.Event
    ) -> None:
        self._config = config
        self._settings = settings
        self._connect = connect
        self._stop = stop
        self._store: Store | None = None
        self._executor: Executor | None = None
        self._judge = JudgeVersion(judge=settings.name, version="")
        self._file_state: object = _NEVER_LOOKED
        self._retry_at = 0.0
        self._since: datetime | None = None  # of the store's clock; everything that arrived before is swept
        self._seen: Arrivals | None = None  # when the last look at what arrived found nothing left to do
        self._look_at = 0.0  # when sessions are looked at again that may be over
        self._windows: list[Window] = []
        self._sweep_at = 0.0
        self._budget = Budget(settings.name, settings.limits)
        self._paused = False
        self._tally = Tally()
        self._reported_at = time.monotonic()

    def run(self) -> None:
        """Raises only what is a bug of ours."""
        back_off_s = FIRST_BACK_OFF_S
        told = ""
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                    back_off_s = FIRST_BACK_OFF_S
                    told = told if self._executor is None else ""
                except TracetuneError as error:
                    if str(error) != told:
                        told = str(error)
                        _log.error("judge %s: %s", self._settings.name, told)
                    self._stop.wait(self._recover(error, back_off_s))
                    back_off_s = min(2 * back_off_s, LAST_BACK_OFF_S)
        finally:
            self._drop_executor()
            self._drop_store()

    def _turn(self) -> None:
        """Do the most urgent thing there is, for PASS_S at most; wait POLL_S where there is none."""
        executor = self._current_executor()
        if executor is None:
            self._stop.wait(POLL_S)
            return
        if self._pauses():
            self._stop.wait(POLL_S)
            return
        store = self._store = self._store or self._connect()
        if self._follow(store, executor) or self._sweep(store, executor):
            self._report()
            return
        self._stop.wait(POLL_S)

    def _pauses(self) -> bool:
        """Whether the money of the day is spent, said once."""
        exhausted = self._budget.exhausted()
        if exhausted and not self._paused:
            _log.warning("%s", self._budget.told())
        self._paused = exhausted
        return exhausted

    def _follow(self, store: Store, executor: Executor) -> bool:
        """Judge what has arrived lately; False where nothing is left of it."""
        if self._since is None:
            self._since = store_clock(store) - timedelta(seconds=OVERLAP_S)
        if self._judge.session is not None:
            return self._follow_sessions(store, executor, self._since, self._judge.session.idle_s)
        seen = arrivals(store, self._since)
        if self._seen and (seen.traces, seen.feedback) == (self._seen.traces, self._seen.feedback):
            return False
        # The latest first: a judge that is too slow for all that arrives is still up to date on some of it.
        found = due(store, self._judge, Since(self._since), limit=PAGE_TRACES, latest_first=True)
        if found:
            self._pass(store, executor, found)
            return True
        self._seen = seen
        if seen.now - self._since > timedelta(seconds=2 * OVERLAP_S):
            self._since, self._seen = seen.now - timedelta(seconds=OVERLAP_S), None
        return False

    def _follow_sessions(self, store: Store, executor: Executor, since: datetime, idle_s: float) -> bool:
        """Judge the sessions that are over by now. Time alone makes them so: nothing arrives that tells."""
        if time.monotonic() < self._look_at:
            return False
        now = store_clock(store)
        found = due(store, self._judge, Since(since - timedelta(seconds=idle_s)), limit=SESSION_BATCH_TRACES)
        if found:
            self._pass(store, executor, found)
            return True
        self._since = max(since, now - timedelta(seconds=OVERLAP_S))
        self._look_at = time.monotonic() + min(MAX_LOOK_S, max(POLL_S, idle_s / 10))
        return False

    def _sweep(self, store: Store, executor: Executor) -> bool:
        """Judge what is left of all time, the latest first; False where nothing is."""
        if not self._windows and time.monotonic() >= self._sweep_at:
            self._windows = list(reversed(windows(store, self._judge)))
            self._sweep_at = time.monotonic() + SWEEP_EVERY_S
        if not self._windows:
            return False
        found = due(store, self._judge, self._windows[-1], limit=PAGE_TRACES)
        if found:
            self._pass(store, executor, found)
        else:
            self._windows.pop()
        return True

    def _pass(self, store: Store, executor: Executor, found: list[Due]) -> None:
        self._tally += judge_traces(
            store,
            executor,
            self._judge,
            found,
            stop=self._stop.is_set,
            within_s=PASS_S,
            budget=self._budget,
        )

    def _current_executor(self) -> Executor | None:
        """The worker of the file as it is now; None while a file that cannot be used stays as it is."""
        settings = self._settings
        state = tuple(_state(file) for file in files_of(settings))
        if state == self._file_state and (self._executor is not None or time.monotonic() < self._retry_at):
            return self._executor
        self._file_state = state
        definition = definition_of(settings)
        if self._executor is not None and definition.version == self._judge.version:
            return self._executor
        self._drop_executor()
        executor = executor_of(self._config, settings, definition)
        executor.start()
        self._executor = executor
        self._judge = version_of(settings, definition)
        self._since, self._seen, self._windows, self._sweep_at = None, None, [], 0.0
        _log.info("judge %s: version %s", settings.name, definition.version)
        return executor

    def _recover(self, error: TracetuneError, back_off_s: float) -> float:
        """Let go of what is at fault; how long to wait before the next turn."""
        if isinstance(error, JudgeError):
            self._drop_executor()
            self._retry_at = time.monotonic() + (RETRY_FILE_S if isinstance(error, JudgeFileError) else 0)
            return POLL_S if isinstance(error, JudgeFileError) else back_off_s
        self._drop_store()
        # What arrives late after an outage may have started long ago: look at everything once more.
        self._windows, self._seen, self._sweep_at = [], None, 0.0
        return back_off_s

    def _drop_executor(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _drop_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _report(self) -> None:
        if self._tally.total and time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            _log.info(
                "judge %s: %d judged, %d abstained since the last report",
                self._settings.name,
                self._tally.judged,
                self._tally.abstained,
            )
            self._tally = Tally()
            self._reported_at = time.monotonic()


def _state(file: Path | None) -> tuple[int, int, int] | None:
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
