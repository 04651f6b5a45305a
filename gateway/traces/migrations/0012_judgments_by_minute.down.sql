-- Nothing is lost: all of it comes from `judgments`.
DROP VIEW IF EXISTS judgments_by_minute;
DROP VIEW IF EXISTS judgments_to_minutes;
DROP TABLE IF EXISTS judged_minutes;
