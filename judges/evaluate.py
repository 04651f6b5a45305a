"""Judges answers that are not in the store: how the learner scores what a snapshot generates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.config import Config, JudgeConfig
from gateway.traces.types import Judgment, Trace
from judges.definition import definition_of
from judges.executor import executor_of
from judges.trace import JudgedTrace, stored_row
from judges.wire import Answer, Task


def evaluate_answers(config: Config, judge: JudgeConfig, traces: Sequence[JudgedTrace]) -> list[Judgment]:
    """One judgment for each of *traces*, in order, by *judge* of *config* as it is now. Nothing is stored.

    The judge runs as it does over the store: what it does wrong is an abstention. A judge that asks for
    `session`, or judges sessions, is given the trace alone. Raises JudgeFileError, JudgeWorkerError.
    """
    definition = definition_of(judge)
    with executor_of(config, judge, definition) as executor:
        executor.start()
        whole = judge.of == "session"
        tasks = (
            Task(trace=stored_row(trace), feedback=list(trace.feedback), whole=whole, generated=True)
            for trace in traces
        )
        return [
            judgment_of(judge.name, definition.version, trace, len(trace.feedback), answer)
            for trace, answer in zip(traces, executor.judge(tasks), strict=True)
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
        seconds=answer.seconds,
        cost_usd=answer.cost_usd,
        tokens_in=answer.tokens_in,
        tokens_out=answer.tokens_out,
        detail=answer.detail,
    )
