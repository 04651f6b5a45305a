-- Who was shown what somebody wrote, and when: one row for each read, written before anything is shown. The ids are
-- those of the traces whose bodies were read; of a statement of `tracetune sql` they are not known, and it is told
-- itself, without its values. Kept for good: retention and erasure remove what people wrote, not who has read it.
CREATE TABLE IF NOT EXISTS body_reads_local ON CLUSTER 'main'
(
    read_id   String CODEC(ZSTD(1)),
    at        DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    who       String CODEC(ZSTD(1)),
    host      LowCardinality(String),
    purpose   LowCardinality(String),
    trace_ids Array(String) CODEC(ZSTD(3)),
    statement Nullable(String) CODEC(ZSTD(3))
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/body_reads', '{replica}')
ORDER BY (at, read_id)
SETTINGS replicated_deduplication_window = 1000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS body_reads ON CLUSTER 'main' AS body_reads_local
ENGINE = Distributed('main', currentDatabase(), 'body_reads_local', cityHash64(at));

