-- Rows go with their tables: the program from before this has no place for them.
DROP TABLE IF EXISTS rollouts;
DROP TABLE IF EXISTS snapshots;
DROP TABLE IF EXISTS datasets;
