"""What the stable variant did before a rollout, frozen so that the evidence is measured against one ruler."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.errors import LearnerRefusedError
from learner.rollout import sql
from learner.rollout.policy import Baseline

if TYPE_CHECKING:
    from gateway.traces.store import Store

PERIOD_DAYS = 30  # how far back
MAX_UNITS = 5_000  # the newest units that are looked at
MIN_UNITS = 20  # fewer say too little to freeze a cap
CAP_QUANTILE = 0.995
CAP_FACTOR = 2.0  # caps lie at this multiple of stable's own quantile: far outside of what is normal
MIN_LATENCY_CAP_MS = 10.0

_QUERY = """
WITH verdicts AS ({verdicts})
SELECT avg(if({failed}, 0, v.score)) AS quality,
       avg(NOT {failed}) AS success,
       avgIf(t.latency_ms, NOT {failed}) AS latency_ms,
       sum(t.cost_usd) AS cost_usd,
       countIf(t.cost_usd IS NULL AND NOT {unbilled}) AS unpriced,
       max(t.started_at) AS newest
FROM traces AS t LEFT JOIN verdicts AS v ON t.trace_id = v.trace_id
WHERE t.route = {{route:String}} AND t.variant = {{variant:String}} AND {drawn}
  AND t.started_at >= {{since:DateTime64(6, 'UTC')}} AND NOT {gone}
GROUP BY {unit}
ORDER BY newest DESC
LIMIT {{limit:UInt32}}
"""


def measure_baseline(
    store: Store, *, route: str, variant: str, sticky_by: str, judge: str, judge_version: str, now: datetime
) -> Baseline:
    """The baseline of *variant*. Raises LearnerRefusedError where fewer than MIN_UNITS were answered."""
    rows = store.query(
        _QUERY.format(
            verdicts=sql.VERDICTS_OF_VARIANT,
            failed=sql.FAILED,
            unbilled=sql.UNBILLED,
            drawn=sql.DRAWN,
            gone=sql.GONE,
            unit=sql.unit_of(sticky_by),
        ),
        {
            "judge": judge,
            "judge_version": judge_version,
            "route": route,
            "variant": variant,
            "since": now - timedelta(days=PERIOD_DAYS),
            "limit": MAX_UNITS,
        },
    )
    answered = [row for row in rows if _known(row["latency_ms"]) is not None]
    if len(answered) < MIN_UNITS:
        raise LearnerRefusedError(
            f"refused: variant {variant!r} of route {route!r} has answered {len(answered)} sessions in "
            f"{PERIOD_DAYS} days; {MIN_UNITS} are needed to know what the candidate is compared with"
        )
    return baseline_of(rows)


def baseline_of(rows: list[dict[str, Any]]) -> Baseline:
    """The baseline from one row per unit. Pure."""
    scores = [score for row in rows if (score := _known(row["quality"])) is not None]
    latencies = [ms for row in rows if (ms := _known(row["latency_ms"])) is not None]
    latency_cap = max(MIN_LATENCY_CAP_MS, CAP_FACTOR * float(np.quantile(latencies, CAP_QUANTILE)))
    costs = [row["cost_usd"] for row in rows if not row["unpriced"] and row["cost_usd"] is not None]
    cost_cap = CAP_FACTOR * float(np.quantile(costs, CAP_QUANTILE)) if len(costs) >= MIN_UNITS else 0.0
    return Baseline(
        units=len(rows),
        quality=float(np.mean(scores)) if len(scores) >= MIN_UNITS else None,
        success=float(np.mean([row["success"] for row in rows])),
        latency_ms=float(np.mean(np.minimum(latencies, latency_cap))),
        latency_cap_ms=latency_cap,
        # A stable that costs nothing has no cost to compare with.
        cost_usd=float(np.mean(np.minimum(costs, cost_cap))) if cost_cap > 0 else None,
        cost_cap_usd=cost_cap if cost_cap > 0 else None,
    )


def _known(value: float | None) -> float | None:
    # avgIf over no rows is NaN in ClickHouse; to us it is unknown.
    return None if value is None or np.isnan(value) else float(value)
