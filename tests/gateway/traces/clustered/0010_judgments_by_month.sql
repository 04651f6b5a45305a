-- Judgments and feedback by month, so that what is past its retention goes as whole partitions; and with each
-- judgment what it is about, so that judgments are counted by route and minute without a join.
-- started_at, route, variant and snapshot are the trace's; NULL, '' and '' where a writer does not say them.
ALTER TABLE judgments_local ON CLUSTER 'main'
    ADD COLUMN IF NOT EXISTS started_at Nullable(DateTime64(6, 'UTC')),
    ADD COLUMN IF NOT EXISTS route LowCardinality(String),
    ADD COLUMN IF NOT EXISTS variant LowCardinality(String),
    ADD COLUMN IF NOT EXISTS snapshot LowCardinality(Nullable(String));

-- Judgments and feedback by month, so that what is past its retention goes as whole partitions; and with each
-- judgment what it is about, so that judgments are counted by route and minute without a join.
-- started_at, route, variant and snapshot are the trace's; NULL, '' and '' where a writer does not say them.
ALTER TABLE judgments ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS started_at Nullable(DateTime64(6, 'UTC')), ADD COLUMN IF NOT EXISTS route LowCardinality(String), ADD COLUMN IF NOT EXISTS variant LowCardinality(String), ADD COLUMN IF NOT EXISTS snapshot LowCardinality(Nullable(String));

