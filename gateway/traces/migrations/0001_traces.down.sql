-- Rows go with their table: the program from before this has no place for them.
DROP TABLE IF EXISTS traces;
