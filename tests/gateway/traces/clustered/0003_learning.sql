-- What was learnt from, what came of it, and every decision about it.

CREATE TABLE IF NOT EXISTS datasets_local ON CLUSTER 'main'
(
    dataset    String,
    route      LowCardinality(String),
    manifest   String CODEC(ZSTD(3)),
    examples   UInt32,
    holdout    UInt32,
    created_at DateTime64(6, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/datasets', '{replica}', created_at)
ORDER BY dataset
SETTINGS replicated_deduplication_window = 1000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS datasets ON CLUSTER 'main' AS datasets_local
ENGINE = Distributed('main', currentDatabase(), 'datasets_local', cityHash64(dataset));

CREATE TABLE IF NOT EXISTS snapshots_local ON CLUSTER 'main'
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/snapshots', '{replica}', created_at)
ORDER BY snapshot
SETTINGS replicated_deduplication_window = 1000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS snapshots ON CLUSTER 'main' AS snapshots_local
ENGINE = Distributed('main', currentDatabase(), 'snapshots_local', cityHash64(snapshot));

-- Append-only. The event is part of the identity, so that one emitted again after a restart is the same row.
CREATE TABLE IF NOT EXISTS rollouts_local ON CLUSTER 'main'
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rollouts', '{replica}', at)
ORDER BY (route, rollout, version, event)
SETTINGS replicated_deduplication_window = 1000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS rollouts ON CLUSTER 'main' AS rollouts_local
ENGINE = Distributed('main', currentDatabase(), 'rollouts_local', cityHash64(route));

