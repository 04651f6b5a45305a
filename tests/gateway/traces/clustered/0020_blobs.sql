-- What bodies share (system prompts, tool schemas, images), once by the hash of its content. Where a part was taken
-- out of a body, {"x_tracetune":{"blob":ID}} stands.
--
-- used_until is no less than the time of any trace that names the row, and is renewed while traces do: so retention,
-- which counts from it, takes a blob only after the last trace that needs it.
CREATE TABLE IF NOT EXISTS blobs_local ON CLUSTER 'main'
(
    blob       String CODEC(ZSTD(1)),
    kind       LowCardinality(String),
    content    String CODEC(ZSTD(3)),
    used_until DateTime('UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/blobs', '{replica}', used_until)
PARTITION BY toYYYYMM(used_until)
ORDER BY blob
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE TABLE IF NOT EXISTS blobs ON CLUSTER 'main' AS blobs_local
ENGINE = Distributed('main', currentDatabase(), 'blobs_local', cityHash64(blob));

