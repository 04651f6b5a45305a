-- Rows stay; that some of them may not be learnt from is forgotten.
ALTER TABLE traces DROP COLUMN IF EXISTS training;
