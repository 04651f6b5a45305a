"""What tests of judges need: rows in the store, what the store says was judged, a running runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import Config, JudgeConfig, Route, Upstream, Variant
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Judgment, Trace
from judges.pending import JudgeVersion, Since, pending
from judges.rows import load_tasks
from judges.wire import Task
from tests.support.store import a_trace

# Judges of Python ask no upstream.
ANY_CONFIG = Config(
    upstreams=[Upstream(name="none", base_url="http://127.0.0.1:9/v1")],
    routes=[
        Route(model="support-bot", variants=[Variant(name="stable", upstream="none", model="m", weight=1.0)])
    ],
)
ANY_JUDGE = JudgeVersion(judge="good", version="v1")
ALWAYS = Since(datetime(2000, 1, 1, tzinfo=UTC))
YES = "def good(trace):\n    return True\n"
KEPT = (
    "import judges\n"
    "def good(trace):\n"
    "    if trace.kept is None:\n"
    "        return judges.abstain('nobody said')\n"
    "    return trace.answer == trace.kept\n"
)


def config_with(*judges: JudgeConfig) -> Config:
    return msgspec.structs.replace(ANY_CONFIG, judges=list(judges))


def feedback_on(trace: Trace, text: str, **changes: Any) -> Feedback:
    values: dict[str, Any] = {
        "feedback_id": os.urandom(8).hex(),
        "trace_id": trace.trace_id,
        "session": None,
        "client": trace.client,
        "kind": "kept",
        "value": None,
        "text": text,
        "created_at": datetime.now(UTC),
    }
    return Feedback(**values | changes)


def add(store: Store, *rows: Trace | Feedback) -> None:
    for table, kind in (("traces", Trace), ("feedback", Feedback)):
        of_kind = [row for row in rows if isinstance(row, kind)]
        store.insert(table, of_kind, token=os.urandom(8).hex())


def some_traces(count: int, **changes: Any) -> list[Trace]:
    return [a_trace(session=os.urandom(4).hex(), **changes) for _ in range(count)]


def judged(store: Store, judge: str = "good") -> dict[str, float | str]:
    """What the store says of each trace: the score, or the reason."""
    rows = store.query("SELECT trace_id, score, reason FROM judgments WHERE judge = {j:String}", {"j": judge})
    found = {row["trace_id"]: row["reason"] if row["score"] is None else row["score"] for row in rows}
    assert len(found) == len(rows), "a trace is judged once per judge and version"
    return found


def judge_all(store: Store, judge: JudgeVersion = ANY_JUDGE) -> None:
    """As a pass does, but for the verdict: what was loaded is what was seen."""
    tasks = load_tasks(store, pending(store, judge, ALWAYS, limit=10_000), sessions=False)
    store_verdicts(store, judge, tasks)


def store_verdicts(store: Store, judge: JudgeVersion, tasks: Iterable[Task]) -> None:
    """A full score for each of *tasks*, by what was loaded."""
    rows = [
        Judgment(
            trace_id=task.trace.trace_id,
            judge=judge.judge,
            version=judge.version,
            score=1.0,
            reason="",
            judged_at=datetime.now(UTC),
            feedback_seen=task.feedback_seen,
        )
        for task in tasks
    ]
    store.insert("judgments", rows, token=datetime.now(UTC).isoformat())


def wait_for(true: Callable[[], bool], within_s: float = 30) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.05)


class RunnerProcess:
    """`python -m judges.runner` on a configuration file, with its log lines."""

    def __init__(self, config_path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "judges.runner", "--config", str(config_path)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def said(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        finally:
            self.kill()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
