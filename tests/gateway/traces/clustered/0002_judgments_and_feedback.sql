-- Rows of these tables replace the row of the same identity. Merges do that in their own time: a reader that has
-- not set `final = 1` (gateway.traces.store does) may see a former row beside its replacement.

-- score NULL: the judge abstained, for `reason`. feedback_seen: how many rows of feedback on the trace the judge was
-- shown; where there are more now, the trace is judged again.
CREATE TABLE IF NOT EXISTS judgments_local ON CLUSTER 'main'
(
    trace_id  String CODEC(ZSTD(1)),
    judge     LowCardinality(String),
    version   LowCardinality(String),
    score     Nullable(Float64),
    reason    String CODEC(ZSTD(3)),
    judged_at DateTime64(6, 'UTC'),
    feedback_seen UInt32 DEFAULT 0
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/judgments', '{replica}', judged_at)
PARTITION BY toYYYYMM(judged_at)
ORDER BY (trace_id, judge, version)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS judgments ON CLUSTER 'main' AS judgments_local
ENGINE = Distributed('main', currentDatabase(), 'judgments_local', cityHash64(trace_id));

CREATE TABLE IF NOT EXISTS feedback_local ON CLUSTER 'main'
(
    feedback_id String CODEC(ZSTD(1)),
    trace_id    Nullable(String) CODEC(ZSTD(1)),
    session     Nullable(String) CODEC(ZSTD(1)),
    client      LowCardinality(String),
    kind        LowCardinality(String),
    value       Nullable(Float64),
    text        Nullable(String) CODEC(ZSTD(3)),
    created_at  DateTime64(6, 'UTC'),
    -- When the row arrived here, as in `traces`: what judges again after late feedback follows this.
    stored_at   DateTime64(3, 'UTC') MATERIALIZED now64(3) CODEC(Delta(8), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_session session TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_arrival stored_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/feedback', '{replica}')
PARTITION BY toYYYYMM(created_at)
ORDER BY feedback_id
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS feedback ON CLUSTER 'main' AS feedback_local
ENGINE = Distributed('main', currentDatabase(), 'feedback_local', cityHash64(feedback_id));

