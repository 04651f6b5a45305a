-- Labels go with their table: the program from before this measures no judge.
DROP TABLE IF EXISTS labels;
