-- Makes: how many rows of a source file are of which class, and the days they span.
-- From:  classified_rows.
-- Grain: one row.
SELECT
    count(*) FILTER (WHERE class = 'event') AS events,
    count(*) FILTER (WHERE class = 'rejected') AS rejected,
    count(*) FILTER (WHERE class = 'other') AS other_nights,
    count(*) FILTER (WHERE unusable_time) AS unusable_times,
    min(row_number) FILTER (WHERE unusable_time) AS first_unusable_time,
    min(ts)::DATE AS first_day,
    max(ts)::DATE AS last_day
FROM classified_rows
