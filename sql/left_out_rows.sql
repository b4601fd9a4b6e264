-- Makes: the table left_out_rows, staged events that the night does not take, each with why.
-- From:  staged, duplicate_rows; crowded_days, the user_day of event_hashes that have more events
--        than a user may; the variable day_shift; $max_user_events, $max_repeats, of a user a day.
-- Grain: one row of staged. why is 'duplicate', 'repeat' (the same item and type too often) or
--        'over_cap' (a user with too many events). The first ones stay, by time and then as they
--        were read. Only users' days that may have too many are looked at whole.
CREATE OR REPLACE TEMP TABLE left_out_rows AS
WITH ranked AS (
    SELECT
        staged.rowid AS staged_row,
        row_number() OVER (
            PARTITION BY staged.user_id, staged.dt
            ORDER BY staged.ts, staged.source, staged.row_number
        ) AS place,
        row_number() OVER (
            PARTITION BY staged.user_id, staged.dt, staged.item_id, staged.event_type
            ORDER BY staged.ts, staged.source, staged.row_number
        ) AS repeat_place
    FROM staged
    ANTI JOIN duplicate_rows ON staged.rowid = duplicate_rows.staged_row
    WHERE
        staged.reason IS NULL
        AND (hash(staged.user_id, staged.dt) >> getvariable('day_shift'))::UINTEGER IN (
            SELECT crowded_days.user_day FROM crowded_days
        )
)

SELECT
    staged_row,
    'duplicate' AS why
FROM duplicate_rows
UNION ALL
SELECT
    staged_row,
    CASE WHEN repeat_place > $max_repeats THEN 'repeat' ELSE 'over_cap' END AS why
FROM ranked
WHERE repeat_place > $max_repeats OR place > $max_user_events
