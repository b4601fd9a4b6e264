-- Makes: what has to be known of a source file before its times can be read.
-- From:  source_rows.
-- Grain: one row.
SELECT
    count(*) AS rows_read,
    min(row_number) FILTER (WHERE broken IS NOT NULL) AS first_broken,
    arg_min(broken, row_number) FILTER (WHERE broken IS NOT NULL) AS broken,
    count(*) FILTER (WHERE has_time) AS timed,
    count(*) FILTER (WHERE isfinite(time_number)) AS numeric_times,
    -- 0 is how many write that there is none.
    approx_quantile(time_number, 0.5)
    FILTER (WHERE isfinite(time_number) AND time_number <> 0) AS middle_time
FROM source_rows
