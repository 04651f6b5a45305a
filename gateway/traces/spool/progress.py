"""What the recorder took from which segment, and what it lost, put down before the shipper may delete."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.traces.spool.replace import replace_file
from gateway.traces.spool.spool_file import SpoolContents

Position = tuple[int, int]  # offset behind the last record taken from a segment, and how many were taken


class Progress(msgspec.Struct, kw_only=True):
    """Positions by segment name, and counters that survive restarts."""

    positions: dict[str, Position] = {}
    written: int = 0
    dropped: dict[str, int] = {}
    torn: int = 0
    quarantined: int = 0

    def position(self, segment: str) -> Position:
        return self.positions.get(segment, (0, 0))

    def drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def absorb(self, contents: SpoolContents) -> None:
        """Learn from an open spool file what was written after the last save."""
        for record in contents.records:
            if record.end > self.position(record.segment)[0]:
                self.positions[record.segment] = (record.end, record.count)
                self.written += 1

    def forget_except(self, segments: set[str]) -> None:
        """Forget positions in segments that are gone."""
        self.positions = {name: at for name, at in self.positions.items() if name in segments}

    @contextlib.contextmanager
    def counting(self, path: Path) -> Iterator[None]:
        """Save what the block counts; a disk that refuses has nothing counted, and it is tried again.

        Raises OSError.
        """
        dropped, torn = dict(self.dropped), self.torn
        yield
        try:
            self.save(path)
        except OSError:
            self.dropped, self.torn = dropped, torn
            raise

    def save(self, path: Path) -> None:
        """Replace the file at *path* as a whole. Raises OSError."""
        replace_file(path, msgspec.json.encode(self))


def load_progress(path: Path) -> Progress:
    """The progress last saved; an empty one at first. Raises OSError, msgspec.DecodeError."""
    if not path.exists():
        return Progress()
    return msgspec.json.decode(path.read_bytes(), type=Progress)
