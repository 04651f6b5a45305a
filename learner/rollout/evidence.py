"""Reads what the traces say about a running rollout: data only; `decision` concludes from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from learner.rollout import sql
from learner.rollout.eprocess import Sample
from learner.rollout.guards import Split
from learner.rollout.policy import FrozenPolicy

if TYPE_CHECKING:
    from gateway.traces.store import Store

RESOLUTION = 1000  # outcomes are rounded to this fraction of their range, so that equal units share a row
FIRST_ANSWERS = 20  # the candidate's first answers, looked at one by one
RECENT_ANSWERS = 200  # both arms' newest answers, in which runs of failures are looked for
DIMENSIONS = ("quality", "success", "latency", "within_budget", "cost", "cost_unknown")
_SHARE_DIGITS = 9  # 1 - 0.9 and 0.1 are one stage
_NO_BUDGET_MS = 0.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, for the hard triggers. `broken`: the variant itself failed to give it."""

    trace_id: str
    candidate: bool
    broken: bool
    score: float | None


class ArmFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm's answers were like, for people; decisions use the units."""

    answers: int
    failed: int
    judged: int
    mean_score: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    priced: int  # answers whose cost is known
    cost_usd_per_answer: float | None  # mean of these alone
    abstained: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All that is known about one rollout at one moment."""

    share: float  # the candidate's share of the route now
    paused: bool
    # Matured units by dimension. Those whose cost is not known whole are in `cost_unknown` and not in `cost`,
    # with the least that they cost.
    samples: dict[str, Sample]
    assigned: list[Split]  # matured units by stage, whatever became of them
    covered: list[Split]  # those with a verdict
    step_units: int  # matured candidate units of the current share
    maturing: int  # units of both arms whose window is still open
    first_answers: list[Answer]  # the candidate's, oldest first
    recent_answers: list[Answer]  # both arms', oldest first
    judge_version: str | None  # of the judge's newest judgment on this route
    figures: dict[str, ArmFigures]  # "candidate" and "stable"

    @property
    def units(self) -> tuple[int, int]:
        """Matured units of the candidate and of stable."""
        return sum(s.candidate for s in self.assigned), sum(s.stable for s in self.assigned)


def read_evidence(
    store: Store, rollout: str, policy: FrozenPolicy, *, share: float, paused: bool, now: datetime
) -> Evidence:
    """Read the evidence on *rollout*. Raises StoreError when the store cannot say."""
    parameters = _parameters(rollout, policy, now)
    rows = store.query(_fill(sql.UNITS_QUERY, policy), parameters)
    first = store.query(
        _fill(sql.ANSWERS_QUERY, policy, order="ASC", variants="{candidate:String}"),
        {**parameters, "limit": FIRST_ANSWERS},
    )
    recent = store.query(
        _fill(sql.ANSWERS_QUERY, policy, order="DESC", variants="{candidate:String}, {stable:String}"),
        {**parameters, "limit": RECENT_ANSWERS},
    )
    version = store.query(sql.VERSION_QUERY, parameters)
    figures = store.query(_fill(sql.FIGURES_QUERY, policy), parameters)
    matured = [row for row in rows if row["mature"]]
    assigned = _splits(_of(matured, "assigned"), policy)
    return Evidence(
        share=share,
        paused=paused,
        samples={name: sample_of(_of(matured, name), policy) for name in DIMENSIONS},
        assigned=assigned,
        covered=_splits(_of(matured, "quality"), policy),
        step_units=sum(s.candidate for s in assigned if abs(s.share - share / policy.pair_share) < 1e-6),
        maturing=sum(int(row["units"]) for row in rows if not row["mature"]),
        first_answers=[_answer(row) for row in first],
        recent_answers=[_answer(row) for row in reversed(recent)],
        judge_version=version[0]["version"] if version and version[0]["n"] else None,
        figures={"candidate" if row["candidate"] else "stable": _figures(row) for row in figures},
    )


def _parameters(rollout: str, policy: FrozenPolicy, now: datetime) -> dict[str, Any]:
    budget_ms = policy.latency_budget_s * 1000 if policy.latency_budget_s is not None else _NO_BUDGET_MS
    return {
        "route": policy.route,
        "rollout": rollout,
        "judge": policy.judge,
        "judge_version": policy.judge_version,
        "candidate": policy.candidate.variant,
        "candidate_upstream": policy.candidate.upstream,
        "candidate_model": policy.candidate.model,
        "stable": policy.stable.variant,
        "stable_upstream": policy.stable.upstream,
        "stable_model": policy.stable.model,
        "window_us": int(policy.window_s * 1e6),
        "settle_us": int(policy.settle_s * 1e6),
        "now_us": int(now.timestamp() * 1e6),
        "latency_cap_ms": policy.baseline.latency_cap_ms,
        "cost_cap_usd": policy.baseline.cost_cap_usd or 1.0,
        "budget_ms": budget_ms,
    }


def _fill(query: str, policy: FrozenPolicy, **more: str) -> str:
    return query.format(
        verdicts=sql.VERDICTS_OF_ROLLOUT,
        unit=sql.unit_of(policy.sticky_by),
        alone=sql.alone(policy.sticky_by),
        drawn=sql.DRAWN,
        gone=sql.GONE,
        failed=sql.FAILED,
        unbilled=sql.UNBILLED,
        fell_back=sql.FELL_BACK,
        clients_fault=sql.CLIENTS_FAULT,
        resolution=RESOLUTION,
        **more,
    )


def _of(rows: list[dict[str, Any]], dimension: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["dimension"] == dimension]


def _candidate_share(row: dict[str, Any], policy: FrozenPolicy) -> float:
    """The probability of the candidate among the two arms, from the logged one of the arm that was drawn."""
    own = float(row["propensity"]) / policy.pair_share
    return round(own if row["candidate"] else 1 - own, _SHARE_DIGITS)


def sample_of(rows: list[dict[str, Any]], policy: FrozenPolicy) -> Sample:
    """Rows of `candidate`, `propensity`, `x` and `units` as a sample."""
    # Where one arm had no traffic, its units cannot be compared with anything.
    usable = [(row, share) for row in rows if 0 < (share := _candidate_share(row, policy)) < 1]
    return Sample(
        np.array([bool(row["candidate"]) for row, _ in usable], dtype=np.bool_),
        np.array([share for _, share in usable], dtype=np.float64),
        np.array([row["x"] for row, _ in usable], dtype=np.float64),
        np.array([row["units"] for row, _ in usable], dtype=np.float64),
    )


def _splits(rows: list[dict[str, Any]], policy: FrozenPolicy) -> list[Split]:
    counts: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        share = _candidate_share(row, policy)
        if 0 < share < 1:
            counts[share][0 if row["candidate"] else 1] += int(row["units"])
    return [Split(share=share, candidate=n[0], stable=n[1]) for share, n in sorted(counts.items())]


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(
        trace_id=row["trace_id"],
        candidate=bool(row["candidate"]),
        broken=bool(row["broken"]),
        score=row["score"],
    )


def _figures(row: dict[str, Any]) -> ArmFigures:
    return ArmFigures(
        answers=row["answers"],
        failed=row["failed"],
        judged=row["judged"],
        mean_score=row["mean_score"],
        latency_ms_p50=_finite(row["p50"]),
        latency_ms_p95=_finite(row["p95"]),
        priced=row["priced"],
        cost_usd_per_answer=row["cost"],
        abstained=row["abstained"],
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
