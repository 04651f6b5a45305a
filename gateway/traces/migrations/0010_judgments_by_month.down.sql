-- Rows stay; what a judgment is about is found by its trace again.
CREATE OR REPLACE TABLE judgments
(
    trace_id  String CODEC(ZSTD(1)),
    judge     LowCardinality(String),
    version   LowCardinality(String),
    score     Nullable(Float64),
    reason    String CODEC(ZSTD(3)),
    judged_at DateTime64(6, 'UTC'),
    feedback_seen UInt32 DEFAULT 0
)
ENGINE = ReplacingMergeTree(judged_at)
ORDER BY (trace_id, judge, version)
SETTINGS non_replicated_deduplication_window = 10000
AS SELECT trace_id, judge, version, score, reason, judged_at, feedback_seen FROM judgments;

CREATE OR REPLACE TABLE feedback
(
    feedback_id String CODEC(ZSTD(1)),
    trace_id    Nullable(String) CODEC(ZSTD(1)),
    session     Nullable(String) CODEC(ZSTD(1)),
    client      LowCardinality(String),
    kind        LowCardinality(String),
    value       Nullable(Float64),
    text        Nullable(String) CODEC(ZSTD(3)),
    created_at  DateTime64(6, 'UTC'),
    stored_at   DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta(8), ZSTD(1)),
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_session session TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_arrival stored_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY feedback_id
SETTINGS non_replicated_deduplication_window = 10000
AS SELECT feedback_id, trace_id, session, client, kind, value, text, created_at, stored_at FROM feedback;

ALTER TABLE feedback
    MODIFY COLUMN stored_at DateTime64(3, 'UTC') MATERIALIZED now64(3) CODEC(Delta(8), ZSTD(1));
