"""What the autopilot decided, and what it has to remember across restarts."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from learner.errors import LearnerError
from learner.files import read_json, write_bytes, write_json

LOG = "autopilot.jsonl"
MARKS = "autopilot.json"
MAX_LINES = 2_000  # the newest are kept
MAX_HANDLED = 200  # snapshots a route remembers to have dealt with


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One decision.

    `action`: "learn", "resume", "finished", "refused", "failed", "start", "skip", "wait" or
    "observe".
    """

    at: datetime
    route: str
    action: str
    reason: str
    snapshot: str | None = None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """How far one route was dealt with: traces up to `since` went to a run, `handled` were tried."""

    since: datetime | None = None
    learned_at: datetime | None = None  # when that run started
    handled: list[str] = []


class AutopilotLog:
    """Appends to STATE/autopilot.jsonl, bounded; what was said last about a route is not said again."""

    def __init__(self, state: Path) -> None:
        self._path = state / LOG
        self._marks_path = state / MARKS
        self._last: dict[str, tuple[str, str, str | None]] = {}
        self._marks: dict[str, Mark] = {}
        if self._marks_path.exists():
            try:
                self._marks = read_json(self._marks_path, dict[str, Mark])
            except LearnerError:
                # Another version wrote it: at worst one run more is started than was needed.
                self._marks = {}

    def say(self, line: Line) -> bool:
        """Append *line* unless it repeats the route's last one. Whether it was news. Raises LearnerError."""
        said = (line.action, line.reason, line.snapshot)
        if self._last.get(line.route) == said:
            return False
        self._last[line.route] = said
        lines = self._path.read_bytes().splitlines()[-(MAX_LINES - 1) :] if self._path.exists() else []
        write_bytes(self._path, b"\n".join([*lines, msgspec.json.encode(line)]) + b"\n")
        return True

    def mark(self, route: str) -> Mark:
        return self._marks.get(route, Mark())

    def set_mark(self, route: str, mark: Mark) -> None:
        """Remember, on disk. Raises LearnerError."""
        bounded = msgspec.structs.replace(mark, handled=mark.handled[-MAX_HANDLED:])
        self._marks = {**self._marks, route: bounded}
        write_json(self._marks_path, self._marks)


def read_lines(state: Path) -> list[Line]:
    """All kept decisions, oldest first; a line of another version is left out."""
    path = state / LOG
    if not path.exists():
        return []
    found = []
    for raw in path.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(raw, type=Line))
        except msgspec.DecodeError:
            continue
    return found
