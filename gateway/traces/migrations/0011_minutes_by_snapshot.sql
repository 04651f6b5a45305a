-- Per-minute aggregates by snapshot too, and the tokens that came from an upstream's cache. '' is a variant without
-- a snapshot, and every variant in the minutes from before this.
--
-- The view is made anew: one whose query is modified in place counts a repeated insert again after a restart. What
-- is inserted while there is none is not counted, so no other version may ship meanwhile.
DROP VIEW IF EXISTS traces_to_minutes;

ALTER TABLE traces_by_minute
    ADD COLUMN IF NOT EXISTS snapshot LowCardinality(String),
    ADD COLUMN IF NOT EXISTS tokens_cached SimpleAggregateFunction(sum, UInt64),
    MODIFY ORDER BY (route, variant, outcome, minute, snapshot);

CREATE MATERIALIZED VIEW IF NOT EXISTS traces_to_minutes TO traces_by_minute AS
SELECT
    toStartOfMinute(started_at) AS minute,
    route,
    variant,
    ifNull(traces.snapshot, '') AS snapshot,
    outcome,
    count() AS traces,
    countIf(isNotNull(traces.tokens_in) AND isNotNull(traces.tokens_out)) AS counted,
    sum(ifNull(traces.tokens_in, 0)) AS tokens_in,
    sum(ifNull(traces.tokens_cached, 0)) AS tokens_cached,
    sum(ifNull(traces.tokens_out, 0)) AS tokens_out,
    countIf(isNotNull(traces.cost_usd)) AS priced,
    sum(ifNull(traces.cost_usd, 0)) AS cost_usd,
    quantilesTDigestState(0.5, 0.95, 0.99)(traces.latency_ms) AS latency_ms,
    quantilesTDigestState(0.5, 0.95, 0.99)(traces.ttft_ms) AS ttft_ms
FROM traces
GROUP BY minute, route, variant, snapshot, outcome;
