-- What a judgment took. Money and tokens are of LLM judges, NULL where nothing was paid; `detail` is JSON of what
-- stands behind a score (each criterion with its answer and quoted reason), under the same key as `reason`.
ALTER TABLE judgments
    ADD COLUMN IF NOT EXISTS seconds Nullable(Float64),
    ADD COLUMN IF NOT EXISTS cost_usd Nullable(Float64),
    ADD COLUMN IF NOT EXISTS tokens_in Nullable(UInt64),
    ADD COLUMN IF NOT EXISTS tokens_out Nullable(UInt64),
    ADD COLUMN IF NOT EXISTS detail String DEFAULT '' CODEC(ZSTD(3));
