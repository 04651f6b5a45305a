"""What the judges of a route may do: the one that trains, and the one that gates. Refusals exit with 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config import Config, JudgeConfig, LearnerConfig, Route
from gateway.errors import UsageError
from judges.definition import definition_of
from judges.standing import Role, Standing, standing_in
from learner.errors import LearnerRefusedError
from learner.read import judge_of, judge_version

if TYPE_CHECKING:
    from gateway.traces.store import Store


def training_standing(config: Config, entry: LearnerConfig, store: Store) -> Standing:
    """Of the version whose verdicts a dataset would be made of now. Raises StoreError, JudgeFileError."""
    return standing_of_version(config, entry, judge_version(config, entry, store), store)


def gating_standing(config: Config, route: Route, store: Store) -> Standing:
    """Of the judge that a rollout started now would be decided by. Raises StoreError, JudgeFileError."""
    judge = rollout_judge(config, route)
    return standing_in(store, judge, definition_of(judge).version)


def standing_of_version(config: Config, entry: LearnerConfig, version: str, store: Store) -> Standing:
    """Of one version of the judge that trains, which is not always what its file holds now."""
    return standing_in(store, judge_of(config, entry), version)


def check_may(standing: Standing, role: Role) -> None:
    """Raise LearnerRefusedError with the judge, its version, its number and the remedy, unless it may."""
    if not standing.may(role):
        raise LearnerRefusedError(f"refused: {standing.refusal(role)}")


def judge_record(standing: Standing) -> dict[str, Any]:
    """The standing of the judge that gates, as it is written beside a decision: JSON."""
    return {**msgspec.to_builtins(standing), "note": standing.note("gate")}


def waits_for(standing: Standing, role: Role) -> str:
    """What a route waits for whose judge may not *role*."""
    return f"waits for: {standing.refusal(role)}"


def rollout_judge(config: Config, route: Route) -> JudgeConfig:
    """The judge whose verdicts decide: the policy's own, else the learner's, else the first of the route.

    Raises UsageError when there is none.
    """
    named = route.rollout.judge or next((e.judge for e in config.learner if e.route == route.model), None)
    for judge in config.judges:
        serves = judge.routes is None or route.model in judge.routes
        if judge.name == named or (named is None and serves):
            return judge
    raise UsageError(f"route {route.model!r} has no judge; add one under judges, quality is never assumed")
