-- Judgments keep what they cost; the sums by minute are without it.
DROP VIEW IF EXISTS judgments_by_minute;
DROP VIEW IF EXISTS judgments_to_minutes;

ALTER TABLE judged_minutes DROP COLUMN IF EXISTS cost_usd;

CREATE MATERIALIZED VIEW IF NOT EXISTS judgments_to_minutes TO judged_minutes AS
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
FROM judgments
WHERE isNotNull(started_at);

CREATE VIEW IF NOT EXISTS judgments_by_minute AS
SELECT
    minute, route, variant, snapshot, judge, version,
    count() AS judgments, count(score) AS scored, sum(ifNull(score, 0)) AS score_sum
FROM judged_minutes FINAL
GROUP BY minute, route, variant, snapshot, judge, version;
