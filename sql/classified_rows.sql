-- Makes: the view classified_rows, each row of a source file with its time and its class.
-- From:  source_rows; the variables unit, us_per_unit, smallest_time (as a number of the unit),
--        first_date, last_date and date_format (of numbers that are no times when their digits are
--        a date; null: none), window_ts (null: no beginning), end_ts, event_types (null: all),
--        event_weights (of a type, where a row has none; null: none).
-- Grain: one row of the file.
-- class: "event" of this night or of the days behind it that it reads too, "rejected" for
-- quarantine, "filtered" for its type is none of those asked for, or "other" night.
CREATE OR REPLACE TEMP VIEW classified_rows AS
WITH clocked AS (
    SELECT
        *,
        CASE
            WHEN getvariable('unit') = 'iso' THEN epoch_us(time_stamp)
            -- A fraction of a microsecond before midnight is not rounded into the next day.
            ELSE least(
                round(time_number * getvariable('us_per_unit')),
                (floor(time_number * getvariable('us_per_unit') / 86400e6) + 1) * 86400e6 - 1
            )
        END AS us,
        -- A slip among times of another size would be a moment that no night asks for.
        CASE
            WHEN time_number > 0 AND time_number < getvariable('smallest_time')
                THEN
                    'time is too small a number for ' || getvariable('unit')
                    || ', the unit of most'
            WHEN
                time_number >= getvariable('first_date') AND time_number < getvariable('last_date')
                AND try_strptime(time_number::BIGINT::VARCHAR, getvariable('date_format'))
                IS NOT NULL
                THEN 'time is a date written in digits, and most are in ' || getvariable('unit')
        END AS slip
    FROM source_rows
),

dated AS (
    SELECT
        *,
        -- Outside of 1970 to 2199 it is a wrong unit or a slip, and no night would ever read it.
        -- 0 is how many write that there is none.
        CASE
            WHEN us > 0 AND us < 7258118400000000 AND slip IS NULL
                THEN make_timestamptz(us::BIGINT)
        END AS ts
    FROM clocked
),

judged AS (
    SELECT
        *,
        CASE
            WHEN broken IS NOT NULL THEN 'line cannot be parsed: it is ' || broken
            WHEN unread IS NOT NULL THEN unread
            WHEN unread_time IS NOT NULL THEN unread_time
            WHEN user_id IS NULL THEN 'no user'
            WHEN item_id IS NULL THEN 'no item'
            WHEN NOT has_time THEN 'no time'
            WHEN us IS NULL THEN 'time cannot be read'
            WHEN us = 0 THEN 'time is 0, which stands for none'
            WHEN slip IS NOT NULL THEN slip
            WHEN ts IS NULL THEN 'time lies outside of 1970 to 2199'
        END AS reason
    FROM dated
)

SELECT
    row_number,
    raw,
    user_id,
    item_id,
    event_type,
    ts,
    -- A cast would ask the calendar of the time zone, which is slow.
    make_date((epoch_us(ts) // 86400000000)::INTEGER) AS dt,
    coalesce(weight, getvariable('event_weights')[event_type]) AS weight,
    reason,
    coalesce(has_time AND ts IS NULL AND unread_time IS NULL AND us IS DISTINCT FROM 0, FALSE)
        AS unusable_time,
    CASE
        WHEN ts < getvariable('window_ts') OR ts >= getvariable('end_ts') THEN 'other'
        WHEN
            broken IS NULL AND NOT list_contains(getvariable('event_types'), event_type)
            THEN 'filtered'
        WHEN reason IS NULL THEN 'event'
        ELSE 'rejected'
    END AS class
FROM judged
