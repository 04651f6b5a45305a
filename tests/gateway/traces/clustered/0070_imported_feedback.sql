-- Who imported a row of feedback that the gateway did not take itself; NULL for what it took.
ALTER TABLE feedback_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS imported_by LowCardinality(Nullable(String)) AFTER created_at;

-- Who imported a row of feedback that the gateway did not take itself; NULL for what it took.
ALTER TABLE feedback ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS imported_by LowCardinality(Nullable(String)) AFTER created_at;

