-- The minutes stay, added up over their snapshots.
DROP VIEW IF EXISTS traces_to_minutes;

CREATE OR REPLACE TABLE traces_by_minute
(
    minute     DateTime('UTC'),
    route      LowCardinality(String),
    variant    LowCardinality(String),
    outcome    LowCardinality(String),
    traces     SimpleAggregateFunction(sum, UInt64),
    counted    SimpleAggregateFunction(sum, UInt64),
    tokens_in  SimpleAggregateFunction(sum, UInt64),
    tokens_out SimpleAggregateFunction(sum, UInt64),
    priced     SimpleAggregateFunction(sum, UInt64),
    cost_usd   SimpleAggregateFunction(sum, Float64),
    latency_ms AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64),
    ttft_ms    AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Nullable(Float64))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (route, variant, outcome, minute)
SETTINGS non_replicated_deduplication_window = 10000
AS SELECT minute, route, variant, outcome, traces, counted, tokens_in, tokens_out, priced, cost_usd, latency_ms, ttft_ms
FROM traces_by_minute;

CREATE MATERIALIZED VIEW IF NOT EXISTS traces_to_minutes TO traces_by_minute AS
SELECT
    toStartOfMinute(started_at) AS minute,
    route,
    variant,
    outcome,
    count() AS traces,
    countIf(isNotNull(traces.tokens_in) AND isNotNull(traces.tokens_out)) AS counted,
    sum(ifNull(traces.tokens_in, 0)) AS tokens_in,
    sum(ifNull(traces.tokens_out, 0)) AS tokens_out,
    countIf(isNotNull(traces.cost_usd)) AS priced,
    sum(ifNull(traces.cost_usd, 0)) AS cost_usd,
    quantilesTDigestState(0.5, 0.95, 0.99)(traces.latency_ms) AS latency_ms,
    quantilesTDigestState(0.5, 0.95, 0.99)(traces.ttft_ms) AS ttft_ms
FROM traces
GROUP BY minute, route, variant, outcome;
