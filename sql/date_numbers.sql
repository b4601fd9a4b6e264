-- Makes: how many times of a source file are numbers whose digits are a date, and one of them.
-- From:  source_rows.
-- Grain: one row. 2026110212 would be seconds of 2034, 202611021200 milliseconds of 1976.
WITH digits AS (
    SELECT
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
)

SELECT
    count(*) AS date_numbers,
    min(time_number) AS date_number
FROM digits
WHERE
    digits // 100000000 % 100 BETWEEN 1 AND 12
    AND digits // 1000000 % 100 BETWEEN 1 AND 31
    AND digits // 10000 % 100 < 24
    AND digits // 100 % 100 < 60
    -- As a float of 17 digits 59.999 may have become 60.
    AND digits % 100 < CASE WHEN time_number > 1e16 THEN 61 ELSE 60 END
