"""How much of what was captured waits, and for how long: in reports, `/metrics`, `tracetune status`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from gateway.traces.spool.spool_file import OPEN, sealed_files, waits_since


def backlog(
    files: Iterable[tuple[Path, int, float | None]], now: float | None = None
) -> tuple[int, float | None]:
    """The bytes of *files* beyond what is taken of each, and how long the oldest of them wait, in seconds.

    The third of each is since when they wait, in seconds since the epoch; None: since its last write. So is
    *now*, by default the time. The age is None where all is taken.
    """
    waiting = []
    for path, taken, since in files:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # dropped while we looked
        if status.st_size > taken:
            waiting.append((since if since is not None else status.st_mtime, status.st_size - taken))
    if not waiting:
        return 0, None
    at = time.time() if now is None else now
    return sum(left for _, left in waiting), max(0.0, at - min(waiting)[0])


def spool_files(spool: Path) -> list[Path]:
    """The files of *spool* that hold what waits for the store, the open one last."""
    return [*sealed_files(spool), *spool.glob(f"*{OPEN}")]


def spool_backlog(spool: Path, now: float | None = None) -> tuple[int, float | None]:
    """The bytes in the files of *spool*, and how long the first row in them has waited, in seconds.

    The age is None where there are none. *now*, in seconds since the epoch, is by default the time.
    """
    return backlog(((path, 0, waits_since(path)) for path in spool_files(spool)), now)
