-- Rows go with their tables: the program from before this has no place for them.
DROP TABLE IF EXISTS feedback;
DROP TABLE IF EXISTS judgments;
