"""Judges answers that are not in the store: how the learner scores what a snapshot generates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.traces.types import Judgment, Trace
from judges.load import read_source
from judges.sandbox import JudgeSettings, Sandbox
from judges.trace import JudgedTrace, stored_row
from judges.wire import Answer, Task


def evaluate_answers(judge: JudgeSettings, traces: Sequence[JudgedTrace]) -> list[Judgment]:
    """One judgment for each of *traces*, in order, by the judge's file as it is now. Nothing is stored.

    The judge runs in the same kind of worker process as over the store: what it does wrong is an abstention.
    A judge that asks for `session` is given the trace alone. Raises JudgeFileError, JudgeWorkerError.
    """
    source = read_source(judge.file, judge.function)
    with Sandbox(source, timeout_s=judge.timeout_s, memory_mb=judge.memory_mb) as sandbox:
        sandbox.start()
        tasks = (Task(trace=stored_row(trace), feedback=list(trace.feedback)) for trace in traces)
        return [
            judgment_of(judge.name, source.version, trace, len(trace.feedback), answer)
            for trace, answer in zip(traces, sandbox.judge(tasks), strict=True)
        ]


def judgment_of(
    judge: str, version: str, trace: Trace | JudgedTrace, feedback_seen: int, answer: Answer
) -> Judgment:
    """The row that *answer* becomes, of a judge that was shown *feedback_seen* rows of feedback."""
    return Judgment(
        trace_id=trace.trace_id,
        judge=judge,
        version=version,
        score=answer.score,
        reason=answer.reason,
        judged_at=datetime.now(UTC),
        feedback_seen=feedback_seen,
        started_at=trace.started_at,
        route=trace.route,
        variant=trace.variant,
        snapshot=trace.snapshot,
    )
