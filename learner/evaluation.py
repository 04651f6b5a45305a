"""Is the candidate better? Base, stable and candidate on the same held-out prompts, judged alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config import LearnerConfig
from gateway.traces.bodies.bodies import Bodies, Owner
from judges.calibration.statistics import Interval
from judges.standing import Standing
from learner.gap import Gap, Scores, offline_gap
from learner.generate import Answer, Arm, Job, SealedPrompts
from learner.paired import Comparison, compare, mean_interval
from learner.rows import owner_of, read_rows
from learner.types import Example, HoldoutRow, TrainPlan

ALL = "all"
CUT_SHORT = "cut short by learner.evaluate.max_new_tokens"
MAX_EXAMPLES = 5  # wins and losses shown


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How one arm's answer to one prompt was judged. `score` None: the judge abstained, for `reason`."""

    score: float | None
    reason: str
    answer: Answer


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm on one slice. Unknown is None. `cut_short` answers did not end by themselves and score 0.

    `seconds` is the mean time of an answer: of stable's, as it was served; of the others, its share of the
    time of a batch, which a served answer takes several times of.
    """

    arm: str
    slice: str
    score: Interval
    abstained: int
    cut_short: int
    tokens_in: float | None  # means
    tokens_out: float | None
    seconds: float | None


class PairReport(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate against another arm on one slice: prompts that both have a score for."""

    against: str
    slice: str
    result: Comparison


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt that two arms answered differently well."""

    trace_id: str
    slice: str
    candidate: str
    other: str
    score: float
    other_score: float


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """The same answers judged by the judge that gates, where that is another than the one that trains.

    `gap` is between the two, against stable, or the base model where stable answered none of the prompts.
    """

    judge: str
    judge_version: str
    arms: list[ArmReport]  # over all prompts
    pairs: list[PairReport]
    gap: Gap | None
    standing: Standing


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """`evaluation.json`. `standing` is that of its judge, which trains, at that time."""

    dataset: str
    judge: str
    judge_version: str
    few_shot: int
    arms: list[ArmReport]
    pairs: list[PairReport]
    wins: list[Shown]  # against stable
    losses: list[Shown]
    evaluated_at: datetime
    standing: Standing | None = None
    gate: GateReport | None = None

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know of the judges behind them."""
        said = [self.standing.note("train") if self.standing is not None else None]
        if self.gate is not None:
            said.append(self.gate.standing.note("gate"))
            said.append(self.gate.gap.sign if self.gate.gap is not None else None)
        return [line for line in said if line is not None]

    def pair(self, against: str, slice_name: str = ALL) -> Comparison | None:
        """The comparison with *against* on a slice, if it was made."""
        for entry in self.pairs:
            if (entry.against, entry.slice) == (against, slice_name):
                return entry.result
        return None


def generation_job(entry: LearnerConfig, run: Path, plan: TrainPlan) -> Job:
    """What `learner.generate` is to answer: the holdout, by the base (with examples) and by the candidate.

    Of an encrypted dataset it names where the prompts are: written down, they would be readable.
    """
    job = Job(
        base_model=plan.base_model,
        arms=[
            Arm(name="base", adapter=None, prompts={}),
            Arm(name="candidate", adapter=run / "adapter", prompts={}),
        ],
        max_new_tokens=entry.evaluate.max_new_tokens,
        batch_size=entry.evaluate.batch_size,
        threads=plan.recipe.threads,
        sealed=SealedPrompts(plan=plan, few_shot=entry.evaluate.few_shot),
    )
    bodies = Bodies.of(plan.keys, os.environ)
    return job if bodies.encrypts else with_prompts(job, bodies)[0]


def with_prompts(job: Job, bodies: Bodies) -> tuple[Job, dict[str, Owner]]:
    """*job* with its prompts, as they are given to the models, and whose they are by trace id."""
    if job.sealed is None:
        return job, {}
    plan, count = job.sealed.plan, job.sealed.few_shot
    holdout = read_rows(plan.dataset_dir / "holdout.jsonl", HoldoutRow, bodies)
    examples = few_shot(read_rows(plan.dataset_dir / "train.jsonl", Example, bodies), count)
    prompts = {row.trace.trace_id: row.prompt for row in holdout}
    base, candidate = job.arms
    shown = {key: with_examples(prompt, examples) for key, prompt in prompts.items()}
    arms = [msgspec.structs.replace(base, prompts=shown), msgspec.structs.replace(candidate, prompts=prompts)]
    owners = {row.trace.trace_id: owner_of(row.trace) for row in holdout}
    return msgspec.structs.replace(job, arms=arms, sealed=None), owners


def few_shot(examples: Sequence[Example], count: int) -> list[Example]:
    """*count* examples spread evenly over the answers in sorted order, so that they differ."""
    ordered = sorted(examples, key=lambda example: (example.completion[0]["content"], example.traces[0]))
    count = min(count, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def with_examples(prompt: Sequence[dict[str, str]], examples: Sequence[Example]) -> list[dict[str, str]]:
    """*prompt* with solved examples after its system prompt, as turns of the conversation."""
    system = [message for message in prompt if message["role"] == "system"]
    rest = [message for message in prompt if message["role"] != "system"]
    turns = [turn for example in examples for turn in (example.prompt[-1], *example.completion)]
    return [*system, *turns, *rest]


def report(
    holdout: Sequence[HoldoutRow],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    *,
    dataset: str,
    judge: str,
    version: str,
    few_shot: int,
    standing: Standing | None = None,
    gate: GateReport | None = None,
) -> Evaluation:
    """The evaluation from the verdicts of each arm by trace id. Pure but for the clock."""
    slices = {row.trace.trace_id: row.slice for row in holdout}
    names = [ALL, *sorted(set(slices.values()))] if len(set(slices.values())) > 1 else [ALL]
    ids = {name: [key for key, of in slices.items() if name in {ALL, of}] for name in names}
    wins, losses = _shown(slices, verdicts["candidate"], verdicts["stable"])
    return Evaluation(
        dataset=dataset,
        judge=judge,
        judge_version=version,
        few_shot=few_shot,
        arms=[_arm(arm, name, verdicts[arm], ids[name]) for name in names for arm in verdicts],
        pairs=[
            PairReport(
                against=other, slice=name, result=_paired(verdicts["candidate"], verdicts[other], ids[name])
            )
            for name in names
            for other in ("base", "stable")
        ],
        wins=wins,
        losses=losses,
        evaluated_at=datetime.now(UTC),
        standing=standing,
        gate=gate,
    )


def gate_report(
    standing: Standing,
    train_judge: str,
    trained: Mapping[str, Mapping[str, Verdict]],
    gated: Mapping[str, Mapping[str, Verdict]],
) -> GateReport:
    """What the judge of *standing* says (*gated*) beside the one that trains (*trained*). Pure."""
    ids = list(gated["candidate"])
    pairs = {other: _paired(gated["candidate"], gated[other], ids) for other in ("base", "stable")}
    against = "stable" if pairs["stable"].difference.n else "base"
    scores = [
        Scores(train=train, train_other=train_other, gate=gate, gate_other=gate_other)
        for key in ids
        if (train := _score(trained["candidate"], key)) is not None
        and (train_other := _score(trained[against], key)) is not None
        and (gate := _score(gated["candidate"], key)) is not None
        and (gate_other := _score(gated[against], key)) is not None
    ]
    return GateReport(
        judge=standing.judge,
        judge_version=standing.version,
        arms=[_arm(arm, ALL, verdicts, ids) for arm, verdicts in gated.items()],
        pairs=[PairReport(against=other, slice=ALL, result=result) for other, result in pairs.items()],
        gap=offline_gap(scores, train_judge=train_judge, gate_judge=standing.judge, against=against),
        standing=standing,
    )


def _score(verdicts: Mapping[str, Verdict], trace_id: str) -> float | None:
    verdict = verdicts.get(trace_id)
    return None if verdict is None else verdict.score


def _arm(arm: str, slice_name: str, verdicts: Mapping[str, Verdict], ids: Sequence[str]) -> ArmReport:
    found = [verdicts[key] for key in ids if key in verdicts]
    return ArmReport(
        arm=arm,
        slice=slice_name,
        score=mean_interval([verdict.score for verdict in found if verdict.score is not None]),
        abstained=sum(verdict.score is None for verdict in found),
        cut_short=sum(verdict.reason == CUT_SHORT for verdict in found),
        tokens_in=_mean([verdict.answer.tokens_in for verdict in found]),
        tokens_out=_mean([verdict.answer.tokens_out for verdict in found]),
        seconds=_mean([verdict.answer.seconds for verdict in found]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _paired(candidate: Mapping[str, Verdict], other: Mapping[str, Verdict], ids: Sequence[str]) -> Comparison:
    scores = [
        (mine, theirs)
        for key in ids
        if (mine := _score(candidate, key)) is not None and (theirs := _score(other, key)) is not None
    ]
    return compare([mine for mine, _ in scores], [theirs for _, theirs in scores])


def _shown(
    slices: Mapping[str, str], candidate: Mapping[str, Verdict], stable: Mapping[str, Verdict]
) -> tuple[list[Shown], list[Shown]]:
    """The first prompts on which the candidate was judged better than stable, and worse."""
    wins: list[Shown] = []
    losses: list[Shown] = []
    for key, slice_name in slices.items():
        if key not in candidate or key not in stable:
            continue
        mine, theirs = candidate[key], stable[key]
        if mine.score is None or theirs.score is None or mine.score == theirs.score:
            continue
        (wins if mine.score > theirs.score else losses).append(
            Shown(
                trace_id=key,
                slice=slice_name,
                candidate=mine.answer.text,
                other=theirs.answer.text,
                score=mine.score,
                other_score=theirs.score,
            )
        )
    return wins[:MAX_EXAMPLES], losses[:MAX_EXAMPLES]
