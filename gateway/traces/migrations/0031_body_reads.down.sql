-- Who has read what goes with its table: the program from before this has no place for it.
DROP TABLE IF EXISTS body_reads;
