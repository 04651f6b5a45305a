-- Per-minute aggregates by route and variant, filled as traces arrive. Several rows of one key are merged in their
-- own time: read with sum(traces), sum(cost_usd), quantilesTDigestMerge(0.5, 0.95, 0.99)(latency_ms).
-- `priced` and `counted` say how many traces the sums over cost and tokens could be taken over.
CREATE TABLE IF NOT EXISTS traces_by_minute_local ON CLUSTER 'main'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/traces_by_minute', '{replica}')
PARTITION BY toYYYYMM(minute)
ORDER BY (route, variant, outcome, minute)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS traces_by_minute ON CLUSTER 'main' AS traces_by_minute_local
ENGINE = Distributed('main', currentDatabase(), 'traces_by_minute_local', rand());

CREATE MATERIALIZED VIEW IF NOT EXISTS traces_to_minutes ON CLUSTER 'main' TO traces_by_minute_local AS
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
FROM traces_local AS traces
GROUP BY minute, route, variant, outcome;

