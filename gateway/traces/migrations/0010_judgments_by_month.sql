-- Judgments and feedback by month, so that what is past its retention goes as whole partitions; and with each
-- judgment what it is about, so that judgments are counted by route and minute without a join.
-- started_at, route, variant and snapshot are the trace's; NULL, '' and '' where a writer does not say them.
ALTER TABLE judgments
    ADD COLUMN IF NOT EXISTS started_at Nullable(DateTime64(6, 'UTC')),
    ADD COLUMN IF NOT EXISTS route LowCardinality(String),
    ADD COLUMN IF NOT EXISTS variant LowCardinality(String),
    ADD COLUMN IF NOT EXISTS snapshot LowCardinality(Nullable(String));

-- A judgment and the one that replaces it may be in different months: `final` sees one of them all the same.
-- Not on a cluster: its tables are created by month in the first place.
CREATE OR REPLACE TABLE judgments
(
    trace_id  String CODEC(ZSTD(1)),
    judge     LowCardinality(String),
    version   LowCardinality(String),
    score     Nullable(Float64),
    reason    String CODEC(ZSTD(3)),
    judged_at DateTime64(6, 'UTC'),
    feedback_seen UInt32 DEFAULT 0,
    started_at Nullable(DateTime64(6, 'UTC')),
    route     LowCardinality(String),
    variant   LowCardinality(String),
    snapshot  LowCardinality(Nullable(String))
)
ENGINE = ReplacingMergeTree(judged_at)
PARTITION BY toYYYYMM(judged_at)
ORDER BY (trace_id, judge, version)
SETTINGS non_replicated_deduplication_window = 10000
AS SELECT
    j.trace_id AS trace_id, j.judge AS judge, j.version AS version, j.score AS score, j.reason AS reason,
    j.judged_at AS judged_at, j.feedback_seen AS feedback_seen,
    if(t.trace_id = '', j.started_at, t.started_at) AS started_at,
    if(t.trace_id = '', j.route, t.route) AS route,
    if(t.trace_id = '', j.variant, t.variant) AS variant,
    if(t.trace_id = '', j.snapshot, t.snapshot) AS snapshot
FROM judgments AS j
LEFT JOIN
(
    SELECT trace_id, started_at, route, variant, snapshot FROM traces
    WHERE trace_id IN (SELECT trace_id FROM judgments)
) AS t ON t.trace_id = j.trace_id;

-- Not on a cluster: its tables are created by month in the first place.
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
PARTITION BY toYYYYMM(created_at)
ORDER BY feedback_id
SETTINGS non_replicated_deduplication_window = 10000
AS SELECT feedback_id, trace_id, session, client, kind, value, text, created_at, stored_at FROM feedback;

-- Not on a cluster: it is so there. SELECT * gives the contract's columns and nothing else.
ALTER TABLE feedback
    MODIFY COLUMN stored_at DateTime64(3, 'UTC') MATERIALIZED now64(3) CODEC(Delta(8), ZSTD(1));
