-- Judgments stay; what they cost, and what stands behind them, is forgotten.
ALTER TABLE judgments
    DROP COLUMN IF EXISTS seconds,
    DROP COLUMN IF EXISTS cost_usd,
    DROP COLUMN IF EXISTS tokens_in,
    DROP COLUMN IF EXISTS tokens_out,
    DROP COLUMN IF EXISTS detail;
