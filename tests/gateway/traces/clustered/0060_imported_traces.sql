-- Traces that were taken over from another tool's log (`tracetune traces import`). They train and are judged as
-- others are; no decision about traffic counts them, because nobody here chose who answered.
ALTER TABLE traces_local ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS imported Bool DEFAULT false;

-- Traces that were taken over from another tool's log (`tracetune traces import`). They train and are judged as
-- others are; no decision about traffic counts them, because nobody here chose who answered.
ALTER TABLE traces ON CLUSTER 'main' ADD COLUMN IF NOT EXISTS imported Bool DEFAULT false;

