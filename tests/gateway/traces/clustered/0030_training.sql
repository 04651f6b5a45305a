-- Whether a trace may be learnt from. False is its client's word, or its key's setting, and holds for good: nothing
-- that arrives later changes a row of `traces`.
ALTER TABLE traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS training Bool DEFAULT true;

-- Whether a trace may be learnt from. False is its client's word, or its key's setting, and holds for good: nothing
-- that arrives later changes a row of `traces`.
ALTER TABLE traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS training Bool DEFAULT true;

