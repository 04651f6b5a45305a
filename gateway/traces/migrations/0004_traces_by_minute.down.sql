-- The minutes go: forward again they begin with the traces that arrive from then on.
DROP VIEW IF EXISTS traces_to_minutes;
DROP TABLE IF EXISTS traces_by_minute;
