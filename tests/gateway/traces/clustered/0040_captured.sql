-- Why a trace has bodies or none: full, metadata (its route keeps no bodies), sampled_out (its session is not in
-- the route's capture_bodies), left_out (too large). Empty for rows from before this was told.
ALTER TABLE traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS captured LowCardinality(String) DEFAULT '';

-- Why a trace has bodies or none: full, metadata (its route keeps no bodies), sampled_out (its session is not in
-- the route's capture_bodies), left_out (too large). Empty for rows from before this was told.
ALTER TABLE traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS captured LowCardinality(String) DEFAULT '';

