-- Makes: what has to be known of a source file before its times can be read.
-- From:  source_rows.
-- Grain: one row. date_numbers: numbers whose digits are a date, as 2026110212 and 202611021200,
-- which would be seconds of 2034 and milliseconds of 1976; date_number is one of them.
WITH timed AS (
    SELECT
        row_number,
        broken,
        has_time,
        time_number,
        CASE
            WHEN time_number BETWEEN 19700101 AND 21991231 THEN time_number::BIGINT * 1000000
            WHEN time_number BETWEEN 1970010100 AND 2199123123 THEN time_number::BIGINT * 10000
            WHEN time_number BETWEEN 197001010000 AND 219912312359 THEN time_number::BIGINT * 100
            WHEN time_number BETWEEN 19700101000000 AND 21991231235959 THEN time_number::BIGINT
            WHEN
                time_number BETWEEN 19700101000000000 AND 21991231235959999
                THEN time_number::BIGINT // 1000
        END AS digits
    FROM source_rows
),

dated AS (
    SELECT
        *,
        coalesce(
            digits // 100000000 % 100 BETWEEN 1 AND 12
            AND digits // 1000000 % 100 BETWEEN 1 AND 31
            AND digits // 10000 % 100 < 24
            AND digits // 100 % 100 < 60
            AND digits % 100 < 60,
            FALSE
        ) AS is_date
    FROM timed
)

SELECT
    count(*) AS rows_read,
    min(row_number) FILTER (WHERE broken IS NOT NULL) AS first_broken,
    arg_min(broken, row_number) FILTER (WHERE broken IS NOT NULL) AS broken,
    count(*) FILTER (WHERE has_time) AS timed,
    count(*) FILTER (WHERE isfinite(time_number)) AS numeric_times,
    count(*) FILTER (WHERE is_date) AS date_numbers,
    min(time_number) FILTER (WHERE is_date) AS date_number,
    approx_quantile(time_number, 0.5) FILTER (WHERE isfinite(time_number)) AS middle_time
FROM dated
