-- Makes: the day of the last event of a source file that lies in the nights asked for.
-- From:  classified_rows.
-- Grain: one row.
SELECT max(ts)::DATE AS last_day
FROM classified_rows
WHERE class = 'event'
