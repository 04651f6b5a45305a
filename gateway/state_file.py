"""JSON that the program keeps in the state directory: whole files only, and a bad one is set aside."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.errors import OperationError

log = logging.getLogger(__name__)

MAX_STATE_BYTES = 16 << 20  # some KB for each route or key; more than this is not a file of ours

Stamp = tuple[int, int, int]
T = TypeVar("T")


def read_state(path: Path, kind: type[T]) -> T | None:
    """What is in the file at *path*, None where there is none.

    Raises OperationError when it may not be read, msgspec.DecodeError when it is not of *kind*.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperationError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if len(content) > MAX_STATE_BYTES:
        raise msgspec.DecodeError(f"larger than {MAX_STATE_BYTES} bytes")
    return msgspec.json.decode(content, type=kind)


def read_or_set_aside(path: Path, kind: type[T], consequence: str) -> T | None:
    """The same, but one that is bad is moved out of the way, and the log says so and the *consequence*.

    For whoever has the file's lock: another process may be replacing it.
    """
    try:
        return read_state(path, kind)
    except msgspec.DecodeError as error:
        aside = path.with_name(f"{path.name}.bad-{time.time_ns()}")
        try:
            path.rename(aside)
        except OSError as refused:
            raise cannot_write(path, refused) from refused
        log.error(  # noqa: TRY400 -- the traceback of a bad file says nothing
            "%s cannot be read (%s); kept as %s, %s", path, error, aside.name, consequence
        )
        return None


def write_state(path: Path, value: msgspec.Struct) -> None:
    """Replace the file at *path* such that a crash at any moment leaves the former or this one.

    For whoever has the file's lock: the name it is written under first is always the same. Raises
    OperationError when the directory refuses.
    """
    content = msgspec.json.format(msgspec.json.encode(value), indent=1)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OperationError:
    """One line for what *error* says."""
    return OperationError(f"{path} cannot be written: {error.strerror}; check the disk and the permissions")


def stamp_of(path: Path) -> Stamp | None:
    """Inode, time of change and size of *path*: differs after every replacement. None: it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
