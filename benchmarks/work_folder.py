"""Where a run puts what it needs. It goes when the run ends, or, of a killed one, when the next begins."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway.config.load import load_config
from gateway.errors import TracetuneError
from gateway.file_lock import try_lock
from gateway.paths import paths_of

PREFIX = "tracetune-benchmark-"
CONFIGURATION = "tracetune.yaml"


@contextlib.contextmanager
def work_folder(root: Path | None = None) -> Iterator[Path]:
    """A folder under *root* (default: the system's for temporary files) that nobody else uses."""
    root = root or Path(tempfile.gettempdir())
    for left in root.glob(f"{PREFIX}*"):
        _sweep(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    held = _hold(folder)
    assert held is not None, "it is new"
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(held)


def _hold(folder: Path) -> int | None:
    """A descriptor that holds *folder* for the life of this process; None where another one has it."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    if not try_lock(held):
        os.close(held)
        return None
    return held


def _sweep(folder: Path) -> None:
    """Remove *folder* if no run has it."""
    held = _hold(folder)
    if held is not None:
        _remove(folder)
        os.close(held)


def _remove(folder: Path) -> None:
    """Remove *folder*, and from shared memory what belongs to the data directories in it."""
    for path in folder.rglob(CONFIGURATION):
        with contextlib.suppress(TracetuneError):  # half written: nothing was started with it
            shutil.rmtree(paths_of(load_config(path)).segments, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
