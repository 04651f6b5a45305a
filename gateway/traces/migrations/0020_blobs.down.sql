-- The shared parts go; bodies that refer to them are read as damaged.
DROP TABLE IF EXISTS blobs;
