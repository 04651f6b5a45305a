"""Numbers that many processes count and any of them can add up: one file of doubles per process, on tmpfs.

A worker (the recorder is one here too) adds to a slot of its own mapped file, some 60 ns and no lock. What it
counted is there for every reader at once and outlives SIGKILL. A reader folds the files of dead workers into
`retired.json`, so that totals never fall; gauges die with their worker.

Each worker has `NAME.values` (the doubles; its lock says that the worker lives) and `NAME.keys` (one JSON
line per series: name, labels, first slot, width).
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.errors import OperationError
from gateway.file_lock import lock, try_lock
from gateway.traces.spool.replace import replace_file

log = logging.getLogger(__name__)

MAX_SLOTS = 1 << 16  # 512 KiB of shared memory per worker, enough for some 700 variants
STARTED_AFTER_S = 60.0  # files of a worker that has not finished them by now are nobody's
_DOUBLE = 8


class SeriesKey(msgspec.Struct, frozen=True, array_like=True):
    """One series: the metric's name and its label values."""

    name: str
    labels: tuple[str, ...]


class _KeyLine(msgspec.Struct, frozen=True, array_like=True):
    key: SeriesKey
    start: int
    width: int


class _Total(msgspec.Struct, frozen=True, array_like=True):
    key: SeriesKey
    values: list[float]


class _Retired(msgspec.Struct, frozen=True):
    folded: list[
        str
    ] = []  # names already in `totals`: a kill between folding and unlinking counts nothing twice
    totals: list[_Total] = []


class SlotWriter:
    """This worker's own file. One thread adds; `allocate` is rare and writes one line.

    Where shared memory refuses, the worker counts for itself and says so: metrics never stop a gateway.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._file = self._keys = -1
        self._used = 0
        try:
            self._open(directory, name)
        except OSError as error:
            log.warning("%s: no shared memory for metrics, /metrics lacks this worker: %s", directory, error)
            self._map = mmap.mmap(-1, MAX_SLOTS * _DOUBLE)
        self.slots = memoryview(self._map).cast("d")

    def allocate(self, key: SeriesKey, width: int) -> int | None:
        """The first of *width* slots of a new series; None where there is no room for it."""
        start = self._used
        if start + width > MAX_SLOTS:
            return None
        if self._keys >= 0:
            try:
                os.write(self._keys, msgspec.json.encode(_KeyLine(key, start, width)) + b"\n")
            except OSError:
                return None
        self._used += width
        return start

    def close(self) -> None:
        """Let go of the file; the next reader takes what it counted for a dead worker's."""
        self.slots.release()
        self._map.close()
        for descriptor in (self._keys, self._file):
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._keys = os.open(directory / f"{name}.keys", flags | os.O_APPEND, 0o600)
        # Under a name that no reader knows until it is locked: it would be taken for a dead worker's.
        draft = directory / f".{name}-{secrets.token_hex(4)}"
        self._file = os.open(draft, flags, 0o600)
        try:
            # Every page now: one that is missing when tmpfs is full is a SIGBUS in the middle of a request.
            os.posix_fallocate(self._file, 0, MAX_SLOTS * _DOUBLE)
            lock(self._file)
            self._map = mmap.mmap(self._file, MAX_SLOTS * _DOUBLE)
            draft.rename(directory / f"{name}.values")
        finally:
            draft.unlink(missing_ok=True)


class SlotReader:
    """Adds up what all workers, living and dead, have counted in *directory*."""

    def __init__(self, directory: Path, gauges: frozenset[str]) -> None:
        self._directory = directory
        self._gauges = gauges

    def totals(self) -> tuple[dict[SeriesKey, list[float]], int]:
        """Every series' slots added over all workers, and how many workers live. Folds the dead. Blocks.

        Raises OperationError where the directory cannot be used.
        """
        try:
            return self._totals()
        except OSError as error:
            raise OperationError(f"{self._directory}: metrics cannot be read: {error}") from error

    def _totals(self) -> tuple[dict[SeriesKey, list[float]], int]:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            self._sweep()
            retired = self._retired()
            dead = [path for path in self._files() if path.stem not in retired.folded and _abandoned(path)]
            if dead or retired.folded:
                retired = self._fold(retired, dead)
            totals = {total.key: list(total.values) for total in retired.totals}
            living = self._files()
            for path in living:
                _add(totals, _read(path))
            return totals, len(living)

    def _sweep(self) -> None:
        """Remove what workers killed while starting have left behind."""
        for path in self._directory.iterdir():
            half_made = path.name.startswith(".") or (
                path.suffix == ".keys" and not path.with_suffix(".values").exists()
            )
            if half_made and time.time() - path.stat().st_mtime > STARTED_AFTER_S:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.values"))

    def _fold(self, retired: _Retired, dead: list[Path]) -> _Retired:
        totals = {total.key: list(total.values) for total in retired.totals}
        for path in dead:
            counted = _read(path)
            _add(totals, {key: values for key, values in counted.items() if key.name not in self._gauges})
        gone = [*retired.folded, *(path.stem for path in dead)]
        listed = [_Total(key, values) for key, values in totals.items()]
        self._save(_Retired(folded=gone, totals=listed))
        for name in gone:
            for suffix in (".values", ".keys"):
                (self._directory / f"{name}{suffix}").unlink(missing_ok=True)
        folded = _Retired(folded=[], totals=listed)
        self._save(folded)
        return folded

    def _retired(self) -> _Retired:
        path = self._directory / "retired.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Retired)
        except FileNotFoundError:
            return _Retired()
        except msgspec.DecodeError as error:
            log.warning("%s cannot be read (%s): the counts of former workers are lost", path, error)
            return _Retired()

    def _save(self, retired: _Retired) -> None:
        replace_file(self._directory / "retired.json", msgspec.json.encode(retired))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def _abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[SeriesKey, list[float]]:
    lines = path.with_suffix(".keys").read_bytes().split(b"\n")[:-1]  # a line without its end is in progress
    keys = [msgspec.json.decode(line, type=_KeyLine) for line in lines]
    used = max((line.start + line.width for line in keys), default=0)
    with path.open("rb") as file:
        slots = memoryview(file.read(used * _DOUBLE)).cast("d")
    return {line.key: list(slots[line.start : line.start + line.width]) for line in keys}


def _add(totals: dict[SeriesKey, list[float]], more: dict[SeriesKey, list[float]]) -> None:
    for key, values in more.items():
        held = totals.get(key)
        if held is None or len(held) != len(values):  # a former release had other buckets: start over
            totals[key] = list(values)
        else:
            totals[key] = [a + b for a, b in zip(held, values, strict=True)]
