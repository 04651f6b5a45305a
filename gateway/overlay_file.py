"""Keeps the overlay in `state/overlay.json`: one writer at a time, whole files only, a bad file set aside.

The file is the truth for every worker. A write replaces it atomically under a lock, so that SIGKILL at any
moment leaves the former or the next one, never a part. What cannot be read is moved aside by the first
process that sees it, and every worker goes back to the YAML.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.errors import OperationError
from gateway.file_lock import try_lock
from gateway.overlay import Overlay
from gateway.state_file import Stamp, cannot_write, read_or_set_aside, read_state, stamp_of, write_state

LOCK_WAIT_S = 5.0  # a writer needs milliseconds; whoever holds the lock longer is stopped or stuck
_RETRY_S = 0.01


class OverlayFile:
    """`overlay.json` and its lock in one state directory."""

    def __init__(self, state: Path) -> None:
        self.path = state / "overlay.json"
        self._lock = state / "overlay.lock"

    def stamp(self) -> Stamp | None:
        """Changes whenever the file does; None while there is none."""
        return stamp_of(self.path)

    def read(self) -> Overlay:
        """The overlay on disk, empty where there is none. Sets a corrupt file aside and says so."""
        try:
            return read_state(self.path, Overlay) or Overlay()
        except msgspec.DecodeError:
            with self._locked():
                return self._read_alone()

    def update(self, change: Callable[[Overlay], Overlay]) -> Overlay:
        """Replace the overlay by *change* of it, alone among all processes; returns what is on disk now.

        Whatever *change* raises leaves the file as it was. Raises OperationError when the directory refuses
        or the lock is held for longer than LOCK_WAIT_S. Blocks: never call it on an event loop.
        """
        with self._locked():
            before = self._read_alone()
            after = change(before)
            if after != before:
                write_state(self.path, after)
            return after

    def _read_alone(self) -> Overlay:
        found = read_or_set_aside(self.path, Overlay, "routes start from the configuration")
        return found or Overlay()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise OperationError(
                    f"{self._lock} has been held by another process for {LOCK_WAIT_S:g} s; "
                    "look for a stopped gateway process"
                )
            time.sleep(_RETRY_S)
