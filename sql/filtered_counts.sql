-- Makes: how many rows of a source file have a type that is not asked for.
-- From:  classified_rows; the variable first_ts (null: no beginning).
-- Grain: one row. A row of a day behind the night is one of another night.
SELECT
    count(*) FILTER (WHERE coalesce(ts >= getvariable('first_ts'), TRUE)) AS filtered,
    count(*) FILTER (WHERE ts < getvariable('first_ts')) AS other_nights
FROM classified_rows
WHERE class = 'filtered'
