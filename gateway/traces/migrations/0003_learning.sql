-- What was learnt from, what came of it, and every decision about it.

CREATE TABLE IF NOT EXISTS datasets
(
    dataset    String,
    route      LowCardinality(String),
    manifest   String CODEC(ZSTD(3)),
    examples   UInt32,
    holdout    UInt32,
    created_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(created_at)
ORDER BY dataset
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS snapshots
(
    snapshot   String,
    route      LowCardinality(String),
    kind       LowCardinality(String),
    base_model String,
    dataset    String,
    parents    Array(String),
    evaluation String CODEC(ZSTD(3)),
    created_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(created_at)
ORDER BY snapshot
SETTINGS non_replicated_deduplication_window = 1000;

-- Append-only. The event is part of the identity, so that one emitted again after a restart is the same row.
CREATE TABLE IF NOT EXISTS rollouts
(
    rollout  String,
    route    LowCardinality(String),
    version  UInt64,
    event    LowCardinality(String),
    snapshot String,
    at       DateTime64(6, 'UTC'),
    who      String,
    why      String CODEC(ZSTD(3)),
    evidence String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (route, rollout, version, event)
SETTINGS non_replicated_deduplication_window = 1000;
