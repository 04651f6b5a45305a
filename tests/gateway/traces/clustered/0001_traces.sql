-- One row per request that was admitted, whatever its outcome. Unknown is NULL, never 0; bodies are JSON text.
--
-- The sorting key starts with what every question starts with. trace_id is text: a UUID column would not sort a
-- UUIDv7 by its time, and could not be joined with the ids that callers send in feedback.
-- The deduplication window makes a repeated insert with the same token add nothing.
CREATE TABLE IF NOT EXISTS traces_local ON CLUSTER 'main'
(
    trace_id      String CODEC(ZSTD(1)),
    started_at    DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    route         LowCardinality(String),
    variant       LowCardinality(String),
    snapshot      LowCardinality(Nullable(String)),
    rollout       LowCardinality(Nullable(String)),
    propensity    Nullable(Float64),
    client        LowCardinality(String),
    session       String CODEC(ZSTD(1)),
    subject       Nullable(String) CODEC(ZSTD(1)),
    upstream      LowCardinality(String),
    model         LowCardinality(String),
    endpoint      LowCardinality(String),
    stream        Bool,
    status        UInt16,
    outcome       LowCardinality(String),
    finish_reason LowCardinality(Nullable(String)),
    attempts      String CODEC(ZSTD(3)),
    latency_ms    Float64,
    ttft_ms       Nullable(Float64),
    tokens_in     Nullable(UInt32),
    tokens_cached Nullable(UInt32),
    tokens_out    Nullable(UInt32),
    usage         Nullable(String) CODEC(ZSTD(3)),
    cost_usd      Nullable(Float64),
    request       Nullable(String) CODEC(ZSTD(3)),
    response      Nullable(String) CODEC(ZSTD(3)),
    tags          Map(LowCardinality(String), String),
    table_hash    LowCardinality(String),
    traceparent   Nullable(String) CODEC(ZSTD(1)),
    -- When the row arrived here: what follows new rows reads by this, because rows may arrive out of order.
    -- MATERIALIZED, so that SELECT * gives the contract's columns and nothing else.
    stored_at     DateTime64(3, 'UTC') MATERIALIZED now64(3) CODEC(Delta(8), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_session session TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_arrival stored_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/traces', '{replica}')
PARTITION BY toYYYYMM(started_at)
ORDER BY (route, started_at, trace_id)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS traces ON CLUSTER 'main' AS traces_local
ENGINE = Distributed('main', currentDatabase(), 'traces_local', cityHash64(trace_id));

