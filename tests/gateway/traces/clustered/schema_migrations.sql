CREATE TABLE IF NOT EXISTS schema_migrations_local ON CLUSTER 'main'
(
    name       String,
    checksum   String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/schema_migrations', '{replica}', applied_at)
ORDER BY name;

CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER 'main' AS schema_migrations_local
ENGINE = Distributed('main', currentDatabase(), 'schema_migrations_local', cityHash64(name));

