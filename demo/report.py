"""The demo's closing figures, all of them out of ClickHouse."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.traces.store import Store

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the closing table. Quality: mean verdict of the judge that gates, 95 % interval.

    The cost is that of all attempts over the answers given; None where the cost of any answer is unknown.
    """

    variant: str
    answers: int
    judged: int
    quality: float | None
    quality_low: float | None
    quality_high: float | None
    quality_seen: float | None
    quality_unseen: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    cost_per_thousand_usd: float | None
    decision: str
    why: str


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """The promoted snapshot against the few-shot base model on one slice of the held-out messages, paired."""

    slice: str
    n: int
    base: float
    candidate: float
    gain: float
    low: float
    high: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `--json` prints."""

    route: str
    variants: list[VariantFigures]
    gains: list[Gain]
    lineage: dict[str, Any]  # of the promoted snapshot
    requests: int
    app_errors: int
    gateway_added_p95_ms_in_training: float | None
    seconds: dict[str, float]  # by step
    cost_ratio: float | None  # cost of an answer, first stable variant over promoted snapshot


_VARIANTS = """
WITH judged AS (
  SELECT trace_id, score FROM judgments FINAL WHERE judge = {judge:String} AND score IS NOT NULL
)
SELECT variant,
       countIf(outcome = 'ok') AS answers,
       countIf(judged.score IS NOT NULL) AS judged_count,
       avg(judged.score) AS quality,
       avgIf(judged.score, tags['templates'] = 'seen') AS seen,
       avgIf(judged.score, tags['templates'] = 'unseen') AS unseen,
       quantileIf(0.5)(latency_ms, outcome = 'ok') / 1000 AS p50,
       quantileIf(0.95)(latency_ms, outcome = 'ok') / 1000 AS p95,
       if(countIf(outcome = 'ok' AND cost_usd IS NULL) > 0, NULL,
          1000 * sum(cost_usd) / nullIf(answers, 0)) AS per_thousand
FROM traces LEFT JOIN judged ON traces.trace_id = judged.trace_id
WHERE route = {route:String} AND propensity IS NOT NULL
GROUP BY variant ORDER BY min(started_at)
SETTINGS join_use_nulls = 1
"""

_EVENTS = """
SELECT snapshot, event, why, evidence FROM rollouts FINAL
WHERE route = {route:String} ORDER BY version
"""

# The gateway's own time: the whole, less the time in attempts at upstreams.
_ADDED = """
SELECT quantile(0.95)(
         latency_ms - arraySum(a -> a.2 - a.1,
           JSONExtract(attempts, 'Array(Tuple(started_ms Float64, ended_ms Float64))'))
       ) AS added, count() AS n
FROM traces
WHERE route = {route:String} AND outcome = 'ok'
  AND started_at BETWEEN fromUnixTimestamp64Micro({since:Int64}) AND fromUnixTimestamp64Micro({until:Int64})
"""


def variant_figures(store: Store, route: str, judge: str) -> list[VariantFigures]:
    """The closing table: one row per variant that got traffic, in the order in which they came."""
    decisions: dict[str, tuple[str, str]] = {}
    for event in store.query(_EVENTS, {"route": route}):
        if event["event"] in {"promoted", "rolled_back", "inconclusive"}:
            decisions[event["snapshot"]] = (event["event"].replace("_", " "), event["why"])
    rows = store.query(_VARIANTS, {"route": route, "judge": judge})
    return [_figures(row, decisions.get(row["variant"], ("stable at the start", ""))) for row in rows]


def _figures(row: dict[str, Any], decision: tuple[str, str]) -> VariantFigures:
    quality, judged = _number(row["quality"]), int(row["judged_count"])
    low, high = wilson(quality, judged) if quality is not None else (None, None)
    return VariantFigures(
        variant=row["variant"],
        answers=int(row["answers"]),
        judged=judged,
        quality=quality,
        quality_low=low,
        quality_high=high,
        quality_seen=_number(row["seen"]),
        quality_unseen=_number(row["unseen"]),
        latency_p50_s=_number(row["p50"]),
        latency_p95_s=_number(row["p95"]),
        cost_per_thousand_usd=_number(row["per_thousand"]),
        decision=decision[0],
        why=decision[1],
    )


def gains(store: Store, snapshot: str) -> list[Gain]:
    """What the snapshot's evaluation says against the base model, by slice, all prompts first."""
    row = store.query("SELECT evaluation FROM snapshots FINAL WHERE snapshot = {s:String}", {"s": snapshot})[
        0
    ]
    evaluation = msgspec.json.decode(row["evaluation"])
    means = {(arm["arm"], arm["slice"]): arm["score"]["value"] for arm in evaluation["arms"]}
    return [
        Gain(
            slice=pair["slice"],
            n=pair["result"]["difference"]["n"],
            base=means["base", pair["slice"]],
            candidate=means["candidate", pair["slice"]],
            gain=pair["result"]["difference"]["value"],
            low=pair["result"]["difference"]["low"],
            high=pair["result"]["difference"]["high"],
        )
        for pair in evaluation["pairs"]
        if pair["against"] == "base"
    ]


def lineage(store: Store, snapshot: str) -> dict[str, Any]:
    """Where the snapshot comes from, as the store has it."""
    row = store.query(
        "SELECT s.snapshot AS snapshot, s.base_model AS base_model, s.dataset AS dataset, "
        "s.parents AS parents, d.examples AS examples, d.holdout AS holdout, d.manifest AS manifest "
        "FROM snapshots AS s FINAL INNER JOIN datasets AS d FINAL ON s.dataset = d.dataset "
        "WHERE s.snapshot = {s:String}",
        {"s": snapshot},
    )[0]
    manifest = msgspec.json.decode(row.pop("manifest"))
    return {
        **row,
        "judge": f"{manifest['judge']} {manifest['judge_version']}, {manifest['standing']['state']}",
        "sessions": manifest["sessions"],
    }


def gateway_added_p95_ms(store: Store, route: str, since_us: int, until_us: int) -> float | None:
    """p95 of the time that the gateway itself added between two moments, in milliseconds."""
    row = store.query(_ADDED, {"route": route, "since": since_us, "until": until_us})[0]
    return _number(row["added"]) if int(row["n"]) else None


def wilson(share: float, count: int) -> tuple[float | None, float | None]:
    """95 % score interval of a proportion (Wilson 1927); (None, None) without observations."""
    if count == 0:
        return (None, None)
    spread = Z_95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return (max(0.0, centre - half), min(1.0, centre + half))


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
