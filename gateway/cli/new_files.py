"""Puts new files into a folder: all of them or none, and never over one that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from gateway.errors import OperationError


def refuse_existing(folder: Path, names: Iterable[str]) -> None:
    """Raise OperationError when one of *names* is in *folder* already."""
    for name in names:
        if os.path.lexists(folder / name):
            raise _exists(folder / name)


def place_new(folder: Path, files: Mapping[str, str]) -> None:
    """Write *files*, text by name, into *folder*, which is made where it is missing.

    Raises OperationError when a file exists already or cannot be written. Whatever stops it (a full disk,
    Ctrl-C), what it made until then is gone.
    """
    refuse_existing(folder, files)
    with ExitStack() as undo:
        _make(folder, undo)
        for name, text in files.items():
            _write(folder / name, text, undo)
        undo.pop_all()


def _make(folder: Path, undo: ExitStack) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir()
        except OSError as error:
            raise OperationError(f"{path} cannot be made: {error.strerror or error}") from error
        undo.callback(path.rmdir)


def _write(path: Path, text: str, undo: ExitStack) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            undo.callback(path.unlink)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # some file systems say only then that the disk is full
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise OperationError(f"{path} cannot be written: {error.strerror or error}") from error


def _exists(path: Path) -> OperationError:
    return OperationError(f"{path} exists already; move it away or choose another folder")
