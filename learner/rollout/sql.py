"""SQL that the baseline and the evidence share: what a unit is, and how an answer counts.

Rules, applied to both arms alike:
- A unit belongs to the arm of its first trace in the rollout, whoever answered in the end.
- A failed, timed-out or truncated answer has quality 0 and counts as infinitely slow: users saw it.
- An answer whose client left, and a request that was refused as the client's own fault, enter nothing.
- An answer without a verdict is missing for quality, never zero.
- When the shares change in the middle of a unit, what follows enters nothing: in both arms, because both see
  another propensity from then on.
- An imported trace enters nothing: nobody here chose who answered it.
- An answer is broken when the variant itself did not give it: it failed, or a fallback had to.
- A unit whose cost is not known whole stays in, with what is known of it as the least that it cost. An error
  that came instead of an answer costs nothing, beside answers of the unit that did cost something.
"""

from __future__ import annotations

# {sticky_by} is one of our own literals, never user text.
_UNITS = {
    "session": "concat(t.client, '\\0', t.session)",
    "subject": "concat(t.client, '\\0', ifNull(t.subject, t.session))",
    "request": "t.trace_id",
}

# Drawn here, by the shares in force: neither pinned by its client nor imported.
DRAWN = "(t.propensity IS NOT NULL AND NOT t.imported)"
GONE = "(t.outcome = 'client_cancelled' OR (t.outcome = 'rejected' AND t.status < 500 AND t.status != 429))"
FAILED = "(t.outcome != 'ok')"
# Nobody bills for an error that comes instead of an answer; one that broke off or took too long is billed.
UNBILLED = "(t.outcome IN ('upstream_error', 'rejected') AND t.status >= 400)"

# The newest verdict of the frozen judge on each trace; the tuple keeps a NULL (an abstention) a verdict.
VERDICTS = """
    SELECT trace_id, argMax(tuple(score), judged_at).1 AS score
    FROM judgments
    WHERE judge = {judge:String} AND version = {judge_version:String}
      AND trace_id IN (SELECT trace_id FROM traces WHERE route = {route:String} AND %s)
    GROUP BY trace_id
"""
VERDICTS_OF_ROLLOUT = VERDICTS % "rollout = {rollout:String}"
VERDICTS_OF_VARIANT = VERDICTS % "variant = {variant:String} AND started_at >= {since:DateTime64(6, 'UTC')}"


def unit_of(sticky_by: str) -> str:
    """The expression that tells units of assignment apart, over `traces AS t`."""
    return _UNITS[sticky_by]


def alone(sticky_by: str) -> str:
    """Whether a trace is known to be the only one of its unit, so that nothing has to be waited for."""
    if sticky_by == "request":
        return "1"
    column = "t.session" if sticky_by == "session" else "ifNull(t.subject, t.session)"
    return f"({column} = t.trace_id)"


# What a client's own bad request gets; it says nothing about the variant that was asked.
CLIENTS_FAULT = "(t.outcome = 'upstream_error' AND t.status IN (400, 413, 422))"
FELL_BACK = (
    "(t.outcome = 'ok' AND (t.upstream, t.model) != if(t.variant = {candidate:String},"
    " ({candidate_upstream:String}, {candidate_model:String}),"
    " ({stable_upstream:String}, {stable_model:String})))"
)

UNITS_QUERY = """
WITH verdicts AS ({verdicts}),
answers AS (
    SELECT {unit} AS unit,
           (toUnixTimestamp64Micro(t.started_at), t.trace_id) AS at,
           t.variant AS variant,
           assumeNotNull(t.propensity) AS propensity,
           toBool({gone}) AS gone,
           toBool({failed}) AS failed,
           toBool({failed} OR {fell_back}) AS broken,
           t.latency_ms AS latency_ms,
           t.cost_usd AS cost_usd,
           t.cost_usd IS NULL AND NOT {unbilled} AS unpriced,
           v.score AS score,
           toBool({alone}) AS alone
    FROM traces AS t LEFT JOIN verdicts AS v ON t.trace_id = v.trace_id
    WHERE t.route = {{route:String}} AND t.rollout = {{rollout:String}} AND {drawn}
),
grouped AS (
    SELECT argMin(variant, at) AS arm,
           argMin(propensity, at) AS arm_propensity,
           min(at).1 AS first_us,
           argMin(alone, at) AS single,
           arrayFilter(
               r -> r.2 = arm AND r.3 = arm_propensity AND r.1 < first_us + {{window_us:Int64}} AND NOT r.4,
               groupArray((
                   at.1, variant, propensity, gone, failed, broken, latency_ms, cost_usd, score, unpriced
               ))
           ) AS kept
    FROM answers GROUP BY unit
),
outcomes AS (
    SELECT arm, arm_propensity,
           first_us + if(single, 0, {{window_us:Int64}}) + {{settle_us:Int64}} <= {{now_us:Int64}} AS mature,
           arrayMap(r -> assumeNotNull(if(r.5, 0., r.9)),
                    arrayFilter(r -> r.5 OR r.9 IS NOT NULL, kept)) AS scores,
           arrayMap(r -> if(r.5, 1., least(r.7 / {{latency_cap_ms:Float64}}, 1.)), kept) AS slowness,
           arrayMap(r -> toFloat64(NOT r.5 AND r.7 <= {{budget_ms:Float64}}), kept) AS within,
           arrayMap(r -> toFloat64(NOT r.6), kept) AS given,
           arrayMap(r -> assumeNotNull(r.8), arrayFilter(r -> r.8 IS NOT NULL, kept)) AS costs,
           least(arraySum(costs) / {{cost_cap_usd:Float64}}, 1.) AS least_cost,
           arrayExists(r -> r.10, kept) OR empty(costs) AS unpriced
    FROM grouped WHERE arm IN ({{candidate:String}}, {{stable:String}})
)
SELECT dimension, arm = {{candidate:String}} AS candidate, arm_propensity AS propensity, mature,
       round(assumeNotNull(value) * {resolution}) / {resolution} AS x, count() AS units
FROM (
    SELECT arm, arm_propensity, mature, arrayJoin([
        ('assigned', toNullable(1.)),
        ('quality', if(empty(scores), NULL, arrayAvg(scores))),
        ('success', if(empty(given), NULL, arrayAvg(given))),
        ('latency', if(empty(slowness), NULL, arrayAvg(slowness))),
        ('within_budget', if(empty(within), NULL, arrayAvg(within))),
        ('cost', if(unpriced OR empty(given), NULL, least_cost)),
        ('cost_unknown', if(NOT unpriced OR empty(given), NULL, least_cost))
    ]) AS outcome, outcome.1 AS dimension, outcome.2 AS value
    FROM outcomes
)
WHERE value IS NOT NULL AND (mature OR dimension = 'assigned')
GROUP BY dimension, candidate, propensity, mature, x
"""

ANSWERS_QUERY = """
WITH verdicts AS ({verdicts})
SELECT t.trace_id AS trace_id, t.variant = {{candidate:String}} AS candidate,
       {failed} AND NOT {clients_fault} OR {fell_back} AS broken,
       if({failed}, 0, v.score) AS score
FROM traces AS t LEFT JOIN verdicts AS v ON t.trace_id = v.trace_id
WHERE t.route = {{route:String}} AND t.rollout = {{rollout:String}} AND {drawn}
  AND NOT {gone} AND t.variant IN ({variants})
ORDER BY t.started_at {order}, t.trace_id {order}
LIMIT {{limit:UInt32}}
"""

FIGURES_QUERY = """
WITH verdicts AS ({verdicts})
SELECT t.variant = {{candidate:String}} AS candidate, count() AS answers, countIf({failed}) AS failed,
       countIf(v.score IS NOT NULL) AS judged, avg(v.score) AS mean_score,
       countIf(v.trace_id != '' AND v.score IS NULL) AS abstained,
       quantileIf(0.5)(t.latency_ms, NOT {failed}) AS p50,
       quantileIf(0.95)(t.latency_ms, NOT {failed}) AS p95,
       countIf(t.cost_usd IS NOT NULL) AS priced,
       avg(t.cost_usd) AS cost
FROM traces AS t LEFT JOIN verdicts AS v ON t.trace_id = v.trace_id
WHERE t.route = {{route:String}} AND t.rollout = {{rollout:String}} AND {drawn}
  AND NOT {gone} AND t.variant IN ({{candidate:String}}, {{stable:String}})
GROUP BY candidate
"""

VERSION_QUERY = """
SELECT argMax(version, judged_at) AS version, count() AS n FROM judgments
WHERE judge = {judge:String} AND trace_id IN (
    SELECT trace_id FROM traces WHERE route = {route:String} AND rollout = {rollout:String} AND NOT imported)
"""

# Per unit the mean score that each judge gave, over the answers that both have a score for.
TWO_JUDGES_QUERY = """
WITH verdicts AS (
    SELECT trace_id,
           argMaxIf(tuple(score), judged_at, judge = {{train_judge:String}}).1 AS train,
           argMaxIf(tuple(score), judged_at, judge = {{gate_judge:String}}).1 AS gate
    FROM judgments
    WHERE (judge, version) IN (({{train_judge:String}}, {{train_version:String}}),
                               ({{gate_judge:String}}, {{gate_version:String}}))
      AND trace_id IN (
          SELECT trace_id FROM traces WHERE route = {{route:String}} AND rollout = {{rollout:String}})
    GROUP BY trace_id
),
answers AS (
    SELECT {unit} AS unit,
           (toUnixTimestamp64Micro(t.started_at), t.trace_id) AS at,
           t.variant AS variant,
           assumeNotNull(t.propensity) AS propensity,
           v.train AS train,
           v.gate AS gate
    FROM traces AS t LEFT JOIN verdicts AS v ON t.trace_id = v.trace_id
    WHERE t.route = {{route:String}} AND t.rollout = {{rollout:String}} AND {drawn} AND NOT {gone}
),
grouped AS (
    SELECT argMin(variant, at) AS arm,
           argMin(propensity, at) AS arm_propensity,
           arrayFilter(
               r -> r.1 = arm AND r.2 = arm_propensity AND r.3 IS NOT NULL AND r.4 IS NOT NULL,
               groupArray((variant, propensity, train, gate))
           ) AS kept
    FROM answers GROUP BY unit
)
SELECT arm = {{candidate:String}} AS candidate, arm_propensity AS propensity,
       round(arrayAvg(r -> assumeNotNull(r.3), kept) * {resolution}) / {resolution} AS train,
       round(arrayAvg(r -> assumeNotNull(r.4), kept) * {resolution}) / {resolution} AS gate,
       count() AS units
FROM grouped WHERE arm IN ({{candidate:String}}, {{stable:String}}) AND notEmpty(kept)
GROUP BY candidate, propensity, train, gate
"""
