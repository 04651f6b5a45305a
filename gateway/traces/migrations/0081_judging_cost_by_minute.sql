-- What judging cost, by minute of the trace: judgments of LLM judges have a price, all others NULL.
--
-- The view is made anew: one whose query is modified in place counts a repeated insert again after a restart. What
-- is inserted while there is none is not counted, so no other version may ship meanwhile.
DROP VIEW IF EXISTS judgments_to_minutes;

ALTER TABLE judged_minutes ADD COLUMN IF NOT EXISTS cost_usd Nullable(Float64);

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
    judged_at,
    cost_usd
FROM judgments
WHERE isNotNull(started_at);

DROP VIEW IF EXISTS judgments_by_minute;

-- `priced` judgments have a known cost, which `cost_usd` adds up.
CREATE VIEW IF NOT EXISTS judgments_by_minute AS
SELECT
    minute, route, variant, snapshot, judge, version,
    count() AS judgments, count(score) AS scored, sum(ifNull(score, 0)) AS score_sum,
    count(judged_minutes.cost_usd) AS priced, sum(ifNull(judged_minutes.cost_usd, 0)) AS cost_usd
FROM judged_minutes FINAL
GROUP BY minute, route, variant, snapshot, judge, version;
