-- Why a trace has bodies or none: full, metadata (its route keeps no bodies), sampled_out (its session is not in
-- the route's capture_bodies), left_out (too large). Empty for rows from before this was told.
ALTER TABLE traces ADD COLUMN IF NOT EXISTS captured LowCardinality(String) DEFAULT '';
