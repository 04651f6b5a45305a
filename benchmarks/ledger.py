"""What clients read to its end, held against what the store has: nothing missing, nothing twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import TracetuneError

POLL_S = 0.1
# Whatever engine the table has: rows that stand beside each other are counted, not made one.
_ALL = "SELECT trace_id, count() AS n FROM traces GROUP BY trace_id SETTINGS final = 0"
_TWICE = f"SELECT trace_id FROM ({_ALL.partition(' SETTINGS')[0]}) WHERE n > 1 SETTINGS final = 0"
_SINCE = (
    "SELECT trace_id FROM traces WHERE started_at >= fromUnixTimestamp64Micro({since}) SETTINGS final = 0"
)


class Answers(Protocol):
    """What is asked of a store that may be away."""

    def query(self, sql: str) -> list[dict[str, Any]]: ...


class Ledger:
    """The ids in the file that the clients write, and which of them were not yet seen in the store."""

    def __init__(self, ids: Path, began_us: int) -> None:
        self._ids = ids
        self._at = 0
        self._waiting: set[str] = set()
        self._since_us = began_us
        self.read = 0

    def take(self) -> int:
        """Take in what was read since the last time; how many ids that were."""
        try:
            with self._ids.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return 0
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        fresh = whole.decode().split()
        self._waiting.update(fresh)
        self.read += len(fresh)
        return len(fresh)

    def settle(self, store: Answers, within_s: float) -> int:
        """Wait until all that was taken in is stored, at most *within_s*; how many ids are not."""
        deadline = time.monotonic() + within_s
        asked_us = time.time_ns() // 1000
        while self._waiting and time.monotonic() < deadline:
            try:
                found = store.query(_SINCE.replace("{since}", str(self._since_us)))
            except TracetuneError:
                time.sleep(POLL_S)
                continue
            self._waiting -= {row["trace_id"] for row in found}
            if self._waiting:
                time.sleep(POLL_S)
        missing = len(self._waiting)
        if not missing:
            self._since_us = asked_us - LONGEST_ANSWER_US
        self._waiting.clear()  # each is missing in one run
        return missing

    def twice(self, store: Answers) -> int:
        """How many ids the store has more than once."""
        return len(store.query(_TWICE))

    def never_stored(self, store: Answers) -> int:
        """Of all ids ever read, those that the store does not have."""
        stored = {row["trace_id"] for row in store.query(_ALL)}
        return len(set(self._ids.read_text().split()) - stored)


LONGEST_ANSWER_US = 60_000_000  # an answer that is read now began at most so long ago
