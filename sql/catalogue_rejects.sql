-- Makes: why rows of the catalogue cannot be used.
-- From:  catalogue_rows.
-- Grain: one reason in one part, the most frequent first within a part.
SELECT
    part,
    reason,
    count(*) AS rows_rejected,
    min(row_number) AS first_row
FROM catalogue_rows
WHERE reason IS NOT null
GROUP BY part, reason
ORDER BY part ASC, rows_rejected DESC, reason ASC
