"""The demo's data directory: made by the demo, marked as such, and emptied only where the mark is."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import ConfigError, OperationError
from gateway.file_lock import try_lock

MARK = ".made-by-tracetune-demo"
_MARK_TEXT = "`tracetune demo` made this directory and empties it whenever it starts.\n"


def check_ours(directory: Path) -> None:
    """Raise ConfigError unless the demo may begin in *directory*: it made it, or there is nothing in it."""
    if not directory.exists() or (directory / MARK).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise ConfigError(
            f"{directory} was not made by the demo, which begins with nothing and deletes what is there; "
            "give it a store.url of its own, or move that directory away"
        )


@contextlib.contextmanager
def fresh(directory: Path) -> Iterator[None]:
    """Hold *directory* while the block lasts: made, or emptied of what an earlier demo left.

    Raises ConfigError, with nothing touched, where it is not the demo's; OperationError for a disk's no, and
    where another demo begins in it this moment.
    """
    check_ours(directory)
    with contextlib.ExitStack() as held:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            mark = held.enter_context((directory / MARK).open("a"))  # made first, and never removed
            if not try_lock(mark.fileno()):
                raise OperationError(f"another demo is at work in {directory}")
            mark.truncate(0)
            mark.write(_MARK_TEXT)
            mark.flush()
            _empty(directory)
        except OSError as error:
            raise OperationError(f"{directory}: cannot be emptied: {error.strerror or error}") from error
        yield


def write_file(path: Path, text: str) -> None:
    """Write a file of the demo's. Raises OperationError where the disk says no."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperationError(f"{path}: cannot be written: {error.strerror or error}") from error


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.name != MARK:
            _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink()
        return
    for folder in entry.glob("*"):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)  # snapshots are read-only
    shutil.rmtree(entry)
