ALTER TABLE feedback DROP COLUMN IF EXISTS imported_by;
