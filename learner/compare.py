"""Judges the answers that a run generated and compares them: by its own judge, and by the one that gates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.config import Config, JudgeConfig, LearnerConfig
from gateway.traces.bodies.bodies import Bodies
from judges.definition import definition_of
from judges.evaluate import evaluate_answers
from judges.standing import Standing, standing_in
from judges.trace import judged_trace
from learner.evaluation import CUT_SHORT, Evaluation, Verdict, gate_report, report
from learner.files import read_json, write_json
from learner.generate import Answer
from learner.read import judge_of
from learner.rows import read_rows
from learner.standing import rollout_judge
from learner.types import HoldoutRow, Manifest, TrainPlan

if TYPE_CHECKING:
    from gateway.traces.store import Store


class EvaluatingJudge(NamedTuple):
    """A judge as it is now, and what that version may do."""

    judge: JudgeConfig
    standing: Standing


class EvaluatingJudges(NamedTuple):
    """The judge that trains and, where it is another one, the judge that gates."""

    trains: EvaluatingJudge
    gates: EvaluatingJudge | None


def evaluating_judges(config: Config, entry: LearnerConfig, store: Store) -> EvaluatingJudges:
    """Whose verdicts an evaluation of a run of *entry* needs. Raises StoreError, JudgeFileError."""
    route = config.route(entry.route)
    assert route is not None, "gateway.config.check saw to it"
    trains, gates = judge_of(config, entry), rollout_judge(config, route)
    return EvaluatingJudges(
        trains=_now(trains, store), gates=_now(gates, store) if gates.name != trains.name else None
    )


def _now(judge: JudgeConfig, store: Store) -> EvaluatingJudge:
    return EvaluatingJudge(judge, standing_in(store, judge, definition_of(judge).version))


def compare_answers(
    config: Config,
    entry: LearnerConfig,
    run: Path,
    plan: TrainPlan,
    stable: str,
    judges: EvaluatingJudges,
) -> Evaluation:
    """Judge the generated answers of *run* and compare; writes evaluation.json. *stable* names a variant.

    Raises LearnerError when answers are missing, JudgeFileError when the judge's file cannot be used.
    """
    path = run / "evaluation.json"
    if path.is_file():
        return read_json(path, Evaluation)
    bodies = Bodies.of(plan.keys, os.environ)
    holdout = read_rows(plan.dataset_dir / "holdout.jsonl", HoldoutRow, bodies)
    manifest = read_json(plan.dataset_dir / "manifest.json", Manifest)
    answers = {"stable": _logged(holdout, stable)}
    for name in ("base", "candidate"):
        answers[name] = {
            answer.trace_id: answer for answer in read_rows(run / f"answers-{name}.jsonl", Answer, bodies)
        }
    trains, gates = judges
    trained = {arm: _judged(config, trains.judge, holdout, given) for arm, given in answers.items()}
    gate = None
    if gates is not None:
        gated = {arm: _judged(config, gates.judge, holdout, given) for arm, given in answers.items()}
        gate = gate_report(gates.standing, trains.judge.name, trained, gated)
    evaluation = report(
        holdout,
        trained,
        dataset=manifest.dataset,
        judge=trains.judge.name,
        version=trains.standing.version,
        few_shot=entry.evaluate.few_shot,
        standing=trains.standing,
        gate=gate,
    )
    if bodies.encrypts:
        evaluation = msgspec.structs.replace(evaluation, wins=[], losses=[])  # they show answers
    write_json(path, evaluation)
    return evaluation


def _logged(holdout: Sequence[HoldoutRow], stable: str) -> dict[str, Answer]:
    """What stable answered to these prompts when they were traffic."""
    return {
        row.trace.trace_id: Answer(
            trace_id=row.trace.trace_id,
            text=judged_trace(row.trace).answer,
            stopped=True,  # a dataset takes no other
            tokens_in=row.trace.tokens_in,
            tokens_out=row.trace.tokens_out,
            seconds=row.trace.latency_ms / 1000,
        )
        for row in holdout
        if row.trace.variant == stable
    }


def _judged(
    config: Config, judge: JudgeConfig, holdout: Sequence[HoldoutRow], answers: Mapping[str, Answer]
) -> dict[str, Verdict]:
    """Verdicts on *answers* by the judge as it is now. An answer that was cut short is a failure: score 0."""
    rows = [row for row in holdout if row.trace.trace_id in answers]
    traces = [
        judged_trace(row.trace, row.feedback).with_answer(answers[row.trace.trace_id].text) for row in rows
    ]
    verdicts: dict[str, Verdict] = {}
    for judgment in evaluate_answers(config, judge, traces):
        answer = answers[judgment.trace_id]
        verdicts[judgment.trace_id] = Verdict(
            score=judgment.score if answer.stopped else 0.0,
            reason=judgment.reason if answer.stopped else CUT_SHORT,
            answer=answer,
        )
    return verdicts
