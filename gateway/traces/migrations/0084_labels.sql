-- What people say of an answer to measure a judge by: one row for each trace and person, the last word in force.
-- Unlike feedback it is no part of what a judge is shown, and judges nothing again.
CREATE TABLE IF NOT EXISTS labels
(
    trace_id    String CODEC(ZSTD(1)),
    who         LowCardinality(String),
    label       UInt8,
    source      LowCardinality(String),
    labelled_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(labelled_at)
PARTITION BY toYYYYMM(labelled_at)
ORDER BY (trace_id, who)
SETTINGS non_replicated_deduplication_window = 1000;
