-- Takes from staged the rows of people who were forgotten.
DELETE FROM staged
WHERE rowid IN (SELECT forgotten_rows.staged_row FROM forgotten_rows)
