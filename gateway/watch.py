"""Keeps a worker equal to the configuration file, the files of its secrets and the overlay, which all change.

A valid change is swapped in whole; an invalid one is one line in the log, and what is in force stays. Every
worker looks for itself, so a control write at one reaches the others with the file, and nothing has to be
told to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from gateway.config.load import load_config
from gateway.config.secrets import Secrets, read_secrets, secret_files
from gateway.config.types import Config
from gateway.errors import ConfigError, OperationError
from gateway.metrics import WorkerMetrics
from gateway.overlay import Overlay, OverlayEntry, overrides, reconcile, with_entry
from gateway.overlay_file import OverlayFile
from gateway.paths import paths_of
from gateway.state import State
from gateway.state_file import Stamp, stamp_of
from gateway.table import Table, build_table
from gateway.traces.spool.replace import replace_file
from gateway.traces.types import CapturedRolloutEvent

log = logging.getLogger(__name__)

POLL_S = 0.2  # twice this is the longest a change waits: a file must be seen unchanged once

MAX_UNRECORDED = 1000  # rollout events that wait for room in the capture memory

# What a process takes from the file only when it starts.
_FIXED = ("listen", "admin_listen", "store", "capture")


class SavedTable(msgspec.Struct, frozen=True, kw_only=True):
    """`state/table.json`: the table last in force, for `explain` while no gateway runs."""

    saved_at_us: int
    table: Table


def load_table(config: Config) -> Table:
    """The table a worker starts on: *config* with the overlay that holds for it. Raises OperationError."""
    overlay = OverlayFile(paths_of(config).state).read()
    return build_table(config, overrides(overlay, config))


_Seen = tuple[Stamp | None, ...]  # the configuration file, and each file of a secret that it names


class Watch:
    """Watches for one worker. `begin` once, then `run`; `decide` is for the control API."""

    def __init__(self, state: State) -> None:
        self.overlay = OverlayFile(state.paths.state)
        self._state = state
        # A worker whose metrics are of another kind is watched over all the same.
        self._metrics = state.metrics if isinstance(state.metrics, WorkerMetrics) else None
        self._turn = asyncio.Lock()
        self._begun = False  # a configuration has been taken from the file
        self._secret_files: list[Path] = []  # of the configuration last read, refused ones too
        self._taken: _Seen = ()  # as it was when it was read last
        self._pending: _Seen = self._look()
        self._overlay_stamp: Stamp | None = None
        self._unrecorded: list[CapturedRolloutEvent] = []
        self._complaint = ""

    async def begin(self) -> None:
        """Take what is on disk into force; what stands in the way is logged, and `run` tries again."""
        try:
            await self.refresh()
        except OperationError as error:
            self._complain(str(error))

    async def run(self) -> None:
        """Look every POLL_S until cancelled."""
        while True:
            try:
                await self.refresh()
                self._record([])
                if self._metrics is not None:
                    self._metrics.capture_dropped(self._state.writer.dropped)
                self._complaint = ""
            except OperationError as error:
                self._complain(str(error))
            except Exception:
                # A watch that died would leave this worker on an old table for good: say so, and look again.
                log.exception("the watch of the configuration and the overlay failed")
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Take what changed on disk into force, if anything did. Raises OperationError."""
        async with self._turn:
            if not self._begun or await asyncio.to_thread(self._config_settled):
                await self._reload()
            elif await asyncio.to_thread(self.overlay.stamp) != self._overlay_stamp:
                await self._take_overlay(self._state.live.config, None)

    async def decide(self, change: Callable[[Overlay], OverlayEntry]) -> OverlayEntry:
        """Write the entry that *change* makes of the overlay, record its events and put it in force here.

        Raises OperationError, and whatever *change* raises; the other workers follow within twice POLL_S.
        """
        decided: list[OverlayEntry] = []

        def apply(overlay: Overlay) -> Overlay:
            decided.append(change(overlay))
            return with_entry(overlay, decided[0])

        await asyncio.to_thread(self.overlay.update, apply)
        for event in decided[0].events:
            log.info("route %s: %s %s by %s", event.route, event.event, event.rollout, event.who)
        self._record(decided[0].events)
        await self.refresh()
        return decided[0]

    def _config_settled(self) -> bool:
        """Whether the file, or a secret's, differs from the one in force and is no longer being written."""
        seen = self._look()
        settled = seen[0] is not None and seen == self._pending
        self._pending = seen
        return settled and seen != self._taken

    def _look(self) -> _Seen:
        return tuple(stamp_of(path) for path in (self._state.config_path, *self._secret_files))

    async def _reload(self) -> None:
        first = not self._begun
        try:
            config, secrets = await asyncio.to_thread(self._read_config)
        except ConfigError as error:
            self._taken = self._pending
            self._count("invalid")
            log.error("%s; the former configuration stays in force", error)  # noqa: TRY400 -- one line
            if not first:
                return
            # Edited to something invalid while the worker started: what it started on is in force.
            config = self._state.live.config
            secrets = read_secrets(config, self._state.environ)
        events = await self._take_config(config, secrets)
        self._taken = self._pending
        if not first:
            self._count("ok")
            log.info("configuration reloaded: table %s", self._state.live.table.hash)
        self._record(events)

    async def _take_config(self, config: Config, secrets: Secrets) -> list[CapturedRolloutEvent]:
        """Put *config* in force; returns the events to record: of what it ended, or at the start the last."""
        ended: list[CapturedRolloutEvent] = []

        def change(overlay: Overlay) -> Overlay:
            after, events = reconcile(overlay, config, time.time_ns() // 1000)
            ended.extend(events)
            return after

        _say_what_needs_a_restart(self._state.live.config, config)
        overlay = await asyncio.to_thread(self.overlay.update, change)
        for event in ended:
            log.info("route %s: %s, because %s", event.route, event.event, event.why)
        if not self._begun:
            ended = [event for entry in overlay.routes.values() for event in entry.events]
        await self._take_overlay(config, secrets)
        return ended

    async def _take_overlay(self, config: Config, secrets: Secrets | None) -> None:
        """Without *secrets*, under the configuration in force, which is *config*."""
        stamp = await asyncio.to_thread(
            self.overlay.stamp
        )  # before reading: a write in between is seen again
        overlay = await asyncio.to_thread(self.overlay.read)
        table = build_table(config, overrides(overlay, config))
        if secrets is None:
            self._state.swap_table(table)
        else:
            self._state.swap(config, table, secrets)
        self._begun, self._overlay_stamp = True, stamp
        if self._state.index == 0:
            await asyncio.to_thread(self._save_table, table)

    def _read_config(self) -> tuple[Config, Secrets]:
        config = load_config(self._state.config_path)
        self._secret_files = secret_files(config)
        # Before reading: a write in between is seen again.
        self._pending = (self._pending[0], *(stamp_of(path) for path in self._secret_files))
        return config, read_secrets(config, self._state.environ, self._state.config_path)

    def _record(self, events: Iterable[CapturedRolloutEvent]) -> None:
        """Hand *events* to capture, and what it had no room for when it was last asked."""
        waiting = [*self._unrecorded, *events]
        self._unrecorded = [event for event in waiting if not self._state.writer.append(event)]
        if len(self._unrecorded) > MAX_UNRECORDED:
            del self._unrecorded[:-MAX_UNRECORDED]
            log.error("capture takes no rollout events: more than %d wait (MAX_UNRECORDED)", MAX_UNRECORDED)

    def _save_table(self, table: Table) -> None:
        path = table_path(self._state.paths.state)
        saved = SavedTable(saved_at_us=time.time_ns() // 1000, table=table)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, msgspec.json.encode(saved))
        except OSError as error:
            self._complain(f"{path}: the table cannot be saved for `tracetune explain`: {error}")

    def _count(self, result: Literal["ok", "invalid"]) -> None:
        if self._metrics is not None:
            self._metrics.config_reloaded(result)

    def _complain(self, message: str) -> None:
        """Log *message* unless it is what was logged last: the next look fails alike."""
        if message != self._complaint:
            self._complaint = message
            log.error("%s", message)


def table_path(state: Path) -> Path:
    """Where the table last in force is saved."""
    return state / "table.json"


def _say_what_needs_a_restart(former: Config, config: Config) -> None:
    changed = [name for name in _FIXED if getattr(former, name) != getattr(config, name)]
    if changed:
        log.warning("%s changed in the configuration: that takes effect at a restart", ", ".join(changed))
