"""The demo's data directory: made by the demo, marked as such, and emptied only where the mark is."""

from __future__ import annotations

import shutil
from pathlib import Path

from gateway.errors import ConfigError, OperationError

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


def start_afresh(directory: Path) -> None:
    """Make *directory*, or empty it of what an earlier demo left.

    Raises ConfigError, with nothing touched, where it is not the demo's; OperationError for a disk's no.
    """
    check_ours(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARK).write_text(_MARK_TEXT, encoding="utf-8")  # first, and never removed
        for entry in directory.iterdir():
            if entry.name != MARK:
                _remove(entry)
    except OSError as error:
        raise OperationError(f"{directory}: cannot be emptied: {error.strerror or error}") from error


def _remove(entry: Path) -> None:
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink()
        return
    for folder in entry.glob("*"):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)  # snapshots are read-only
    shutil.rmtree(entry)
