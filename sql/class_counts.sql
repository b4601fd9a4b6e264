-- Makes: how many rows of a source file belong to other nights, and what its times are like.
-- From:  classified_rows; the variables window_ts (null: no beginning), end_ts.
-- Grain: one row. By the times alone, so that of a Parquet file no other column is read.
SELECT
    count(*) FILTER (
        WHERE ts < getvariable('window_ts') OR ts >= getvariable('end_ts')
    ) AS other_nights,
    count(*) FILTER (WHERE unusable_time) AS unusable_times,
    min(row_number) FILTER (WHERE unusable_time) AS first_unusable_time,
    min(ts) AS first_ts,
    max(ts) AS last_ts
FROM classified_rows
