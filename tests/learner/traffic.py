"""Judged traffic of the demo's kind in a real store, and a configuration that learns from it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from demo.messages import SYSTEM_PROMPT, Message, messages
from gateway.config import Config
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Judgment, Trace
from judges.load import read_source
from tests.support.store import a_trace, store_config

ROUTE = "support-bot"
JUDGE = "def kept(trace):\n    return None if trace.kept is None else trace.answer == trace.kept\n"
_EXTRA = """
judges:
  - {{name: kept, path: "{judge}:kept"}}
learner:
  - route: support-bot
    base_model: {base}
    serve_on: up
    judge: kept
    dataset: {{min_traces: {min_traces}, holdout_tags: {{template: unseen}}, max_holdout: {max_holdout}}}
    train: {{lora_rank: 8, batch_size: 4, threads: 1, max_tokens: 1000}}
    evaluate: {{few_shot: 2, max_new_tokens: 6, batch_size: 8}}
"""
START = datetime(2026, 11, 1, tzinfo=UTC)


def a_config(folder: Path, *, base: str = "base", min_traces: int = 40, max_holdout: int = 500) -> Config:
    """A configuration whose data lie in *folder*; its store is not started."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judge.py").write_text(JUDGE)
    extra = _EXTRA.format(judge="judge.py", base=base, min_traces=min_traces, max_holdout=max_holdout)
    return store_config(folder, extra)


def version_of(config: Config) -> str:
    return read_source(config.judges[0].file, config.judges[0].function).version


def trace_of(message: Message, number: int, **changes: Any) -> Trace:
    """The trace of a message that was answered rightly, in a session of its own."""
    request = {
        "model": ROUTE,
        "messages": [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": message.text},
        ],
    }
    answer = changes.pop("answer", message.ticket.json())
    choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    values: dict[str, Any] = {
        "session": f"s{number}",
        "started_at": START + timedelta(seconds=number),
        "request": msgspec.json.encode(request).decode(),
        "response": msgspec.json.encode({"choices": [choice]}).decode(),
        "tags": {"template": "seen" if message.seen else "unseen"},
    }
    return a_trace(**values | changes)


def judgment_on(trace: Trace, config: Config, score: float | None, **changes: Any) -> Judgment:
    values: dict[str, Any] = {
        "trace_id": trace.trace_id,
        "judge": "kept",
        "version": version_of(config),
        "score": score,
        "reason": "" if score is not None else "nobody said",
        "judged_at": START,
    }
    return Judgment(**values | changes)


def kept_on(trace: Trace, text: str) -> Feedback:
    return Feedback(
        feedback_id=os.urandom(8).hex(),
        trace_id=trace.trace_id,
        session=None,
        client=trace.client,
        kind="kept",
        value=None,
        text=text,
        created_at=START,
    )


def add(store: Store, *rows: Trace | Judgment | Feedback) -> None:
    for table, kind in (("traces", Trace), ("judgments", Judgment), ("feedback", Feedback)):
        of_kind = [row for row in rows if isinstance(row, kind)]
        store.insert(table, of_kind, token=os.urandom(8).hex())


def judged_traffic(store: Store, config: Config, count: int) -> list[Trace]:
    """*count* judged traces with what was kept; one of six is wrong and judged so."""
    rows: list[Trace | Judgment | Feedback] = []
    traces: list[Trace] = []
    for number, message in enumerate(islice(messages(1), count)):
        wrong = number % 6 == 0
        trace = trace_of(message, number, **({"answer": "{}"} if wrong else {}))
        traces.append(trace)
        rows += [
            trace,
            judgment_on(trace, config, 0.0 if wrong else 1.0),
            kept_on(trace, message.ticket.json()),
        ]
    add(store, *rows)
    return traces
