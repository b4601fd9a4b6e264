-- Makes: how many rows of each source file are of people who were forgotten.
-- From:  forgotten_rows.
-- Grain: one source file that has such rows.
SELECT
    source,
    count(*) AS forgotten
FROM forgotten_rows
GROUP BY source
