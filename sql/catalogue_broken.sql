-- Makes: the first line of a part of the catalogue that cannot be parsed.
-- From:  source_rows, as tasks/sources/items.py makes it.
-- Grain: one row, or none where there is no such line.
SELECT
    row_number,
    broken
FROM source_rows
WHERE broken IS NOT null
ORDER BY row_number
LIMIT 1
