"""Replacing a file so that neither a crash nor a power cut brings the old content back."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.traces.spool.replace import replacing


def replace_synced(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put *data* at *path*, whole or not at all, on disk on return; by default for this user alone.

    Raises OSError.
    """
    with replacing(path) as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def remove_synced(path: Path) -> None:
    """Remove *path*, on disk on return. Raises OSError."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
