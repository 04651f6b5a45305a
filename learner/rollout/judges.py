"""The judges behind a running rollout: what the one that gates may do, and its gap to the one that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config import Config
from judges.standing import Standing, standing_in
from learner.gap import Gap, traffic_gap
from learner.paired import wilson
from learner.rollout import sql
from learner.rollout.eprocess import Sample
from learner.rollout.evidence import RESOLUTION, ArmFigures, sample_of
from learner.rollout.policy import FrozenPolicy
from learner.standing import judge_record

if TYPE_CHECKING:
    from gateway.traces.store import Store

# Of an arm's judged answers. A candidate that makes its judge abstain by so much more often, and surely more
# often at all, has found a way of not being judged.
ABSTENTION_BOUND = 0.05
ARMS = ("candidate", "stable")


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """`standing` None: the judge that gates was taken out of the configuration."""

    standing: Standing | None
    gap: Gap | None

    @property
    def refusal(self) -> str | None:
        """Why nothing may be promoted on this judge's word; None where it may."""
        return None if self.standing is None or self.standing.may_gate else self.standing.refusal("gate")

    def record(self) -> dict[str, Any]:
        """As it is written beside a decision: JSON."""
        return {
            "judge": judge_record(self.standing) if self.standing is not None else None,
            "gap": msgspec.to_builtins(self.gap),
        }

    def notes(self) -> list[str]:
        """Lines for people."""
        said = [
            self.standing.note("gate") if self.standing is not None else None,
            self.gap.sign if self.gap is not None else None,
        ]
        return [line for line in said if line is not None]


def watch_judges(config: Config, store: Store, rollout: str, policy: FrozenPolicy) -> Watched:
    """Look at the judges of *rollout* as they are now. Raises StoreError."""
    gates = next((judge for judge in config.judges if judge.name == policy.judge), None)
    return Watched(
        standing=standing_in(store, gates, policy.judge_version) if gates is not None else None,
        gap=_read_gap(config, store, rollout, policy),
    )


def abstention_sign(figures: dict[str, ArmFigures]) -> str | None:
    """One line where the judge abstains on more of the candidate's answers than of stable's. Pure."""
    if set(ARMS) - set(figures):
        return None
    (mine, n), (others, m) = ((f.abstained, f.judged + f.abstained) for f in map(figures.get, ARMS) if f)
    if not n or not m or mine / n - others / m <= ABSTENTION_BOUND:
        return None
    if wilson(mine, n)[0] <= wilson(others, m)[1]:
        return None
    return (
        f"the judge abstains on {mine} of {n} answers of the candidate and on {others} of {m} of stable; "
        "read what the candidate answers"
    )


def _read_gap(config: Config, store: Store, rollout: str, policy: FrozenPolicy) -> Gap | None:
    """Over this rollout's sessions. None where one judge does both, or they have no answers in common."""
    trains = next((entry.judge for entry in config.learner if entry.route == policy.route), policy.judge)
    if trains == policy.judge:
        return None
    scope = {"route": policy.route, "rollout": rollout}
    (version,) = store.query(sql.VERSION_QUERY, {**scope, "judge": trains})
    if not version["n"]:
        return None
    query = sql.TWO_JUDGES_QUERY.format(
        unit=sql.unit_of(policy.sticky_by), drawn=sql.DRAWN, gone=sql.GONE, resolution=RESOLUTION
    )
    rows = store.query(
        query,
        {
            **scope,
            "train_judge": trains,
            "train_version": version["version"],
            "gate_judge": policy.judge,
            "gate_version": policy.judge_version,
            "candidate": policy.candidate.variant,
            "stable": policy.stable.variant,
        },
    )
    train, gate = (_by(rows, name, policy) for name in ("train", "gate"))
    return traffic_gap(
        train, gate, alpha=policy.alpha, train_judge=trains, gate_judge=policy.judge, against="stable"
    )


def _by(rows: list[dict[str, Any]], judge: str, policy: FrozenPolicy) -> Sample:
    return sample_of([{**row, "x": row[judge]} for row in rows], policy)
