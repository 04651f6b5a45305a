-- Judgments by minute of their trace. A sum that grows with every insert would count a trace that is judged again
-- twice, so one row per trace, judge and version is kept, in the order that questions come in, and the later one
-- replaces the former. `judgments_by_minute` adds them up.
CREATE TABLE IF NOT EXISTS judged_minutes_local ON CLUSTER 'main'
(
    minute    DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    route     LowCardinality(String),
    variant   LowCardinality(String),
    snapshot  LowCardinality(String),
    judge     LowCardinality(String),
    version   LowCardinality(String),
    trace_id  String CODEC(ZSTD(1)),
    score     Nullable(Float64),
    judged_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/judged_minutes', '{replica}', judged_at)
PARTITION BY toYYYYMM(minute)
ORDER BY (route, judge, version, minute, variant, snapshot, trace_id)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS judged_minutes ON CLUSTER 'main' AS judged_minutes_local
ENGINE = Distributed('main', currentDatabase(), 'judged_minutes_local', cityHash64(trace_id));

CREATE MATERIALIZED VIEW IF NOT EXISTS judgments_to_minutes ON CLUSTER 'main' TO judged_minutes_local AS
SELECT
    toStartOfMinute(assumeNotNull(started_at)) AS minute,
    route,
    variant,
    ifNull(judgments.snapshot, '') AS snapshot,
    judge,
    version,
    trace_id,
    score,
    judged_at
FROM judgments_local AS judgments
WHERE isNotNull(started_at);

INSERT INTO judged_minutes (minute, route, variant, snapshot, judge, version, trace_id, score, judged_at)
SELECT
    toStartOfMinute(assumeNotNull(started_at)), route, variant, ifNull(snapshot, ''), judge, version, trace_id, score,
    judged_at
FROM judgments
WHERE isNotNull(started_at);

-- `scored` judgments have a score, the others abstained: the mean is sum(score_sum) / sum(scored).
CREATE VIEW IF NOT EXISTS judgments_by_minute ON CLUSTER 'main' AS
SELECT
    minute, route, variant, snapshot, judge, version,
    count() AS judgments, count(score) AS scored, sum(ifNull(score, 0)) AS score_sum
FROM judged_minutes FINAL
GROUP BY minute, route, variant, snapshot, judge, version;

