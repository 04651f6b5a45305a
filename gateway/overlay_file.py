"""Keeps the overlay in `state/overlay.json`: one writer at a time, whole files only, a bad file set aside.

The file is the truth for every worker. A write replaces it atomically under a lock, so that SIGKILL at any
moment leaves the former or the next one, never a part. What cannot be read is moved aside by the first
process that sees it, and every worker goes back to the YAML.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.errors import OperationError
from gateway.overlay import Overlay

log = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0  # a writer needs milliseconds; whoever holds the lock longer is stopped or stuck
MAX_OVERLAY_BYTES = 16 << 20  # some KB per route; more than this is not a file of ours
_RETRY_S = 0.01

Stamp = tuple[int, int, int]
T = TypeVar("T")


class OverlayFile:
    """`overlay.json` and its lock in one state directory."""

    def __init__(self, state: Path) -> None:
        self.path = state / "overlay.json"
        self._lock = state / "overlay.lock"
        self._temporary = state / "overlay.json.tmp"  # one name: only the lock's holder writes it

    def stamp(self) -> Stamp | None:
        """Changes whenever the file does; None while there is none."""
        return stamp_of(self.path)

    def read(self) -> Overlay:
        """The overlay on disk, empty where there is none. Sets a corrupt file aside and says so."""
        try:
            return self._load()
        except msgspec.DecodeError:
            with self._locked():
                return self._load_or_set_aside()

    def update(self, change: Callable[[Overlay], Overlay]) -> Overlay:
        """Replace the overlay by *change* of it, alone among all processes; returns what is on disk now.

        Whatever *change* raises leaves the file as it was. Raises OperationError when the directory refuses
        or the lock is held for longer than LOCK_WAIT_S. Blocks: never call it on an event loop.
        """
        with self._locked():
            before = self._load_or_set_aside()
            after = change(before)
            if after != before:
                self._save(after)
            return after

    def _load(self) -> Overlay:
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_OVERLAY_BYTES + 1)
        except FileNotFoundError:
            return Overlay()
        except OSError as error:
            raise OperationError(f"{self.path} cannot be read: {error}; check its permissions") from error
        if len(content) > MAX_OVERLAY_BYTES:
            raise msgspec.DecodeError(f"larger than {MAX_OVERLAY_BYTES} bytes")
        return msgspec.json.decode(content, type=Overlay)

    def _load_or_set_aside(self) -> Overlay:
        try:
            return self._load()
        except msgspec.DecodeError as error:
            aside = self.path.with_name(f"overlay.json.bad-{time.time_ns()}")
            self._guard(lambda: self.path.rename(aside))
            log.error(  # noqa: TRY400 -- the traceback of a bad file says nothing
                "%s cannot be read (%s); kept as %s, routes start from the configuration",
                self.path,
                error,
                aside.name,
            )
            return Overlay()

    def _save(self, overlay: Overlay) -> None:
        content = msgspec.json.format(msgspec.json.encode(overlay), indent=1)
        self._guard(lambda: replace_durably(self.path, self._temporary, content))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._guard(lambda: self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700))
        descriptor = self._guard(lambda: os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise OperationError(
                        f"{self._lock} has been held by another process for {LOCK_WAIT_S:g} s; "
                        "look for a stopped gateway process"
                    ) from error
                time.sleep(_RETRY_S)
            else:
                return

    def _guard(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError as error:
            raise OperationError(
                f"{self.path} cannot be written: {error}; check the disk and the permissions"
            ) from error


def stamp_of(path: Path) -> Stamp | None:
    """Inode, time of change and size of *path*: differs after every replacement. None: it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def replace_durably(path: Path, temporary: Path, content: bytes) -> None:
    """Replace *path* by *content* such that a crash at any moment leaves the one or the other."""
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
