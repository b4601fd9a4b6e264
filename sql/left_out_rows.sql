-- Makes: the table left_out_rows, staged events that the night does not take, each with why.
-- From:  staged, duplicate_rows; $max_user_events, $max_repeats, of a user a day.
-- Grain: one row of staged: 'duplicate'; 'repeat', the same item and type too often; or 'busy', a
-- user with too many events. Of too many the first stay, by time and then as they were read.
-- Users are told apart by hashes first: only those who may have too many are looked at whole.
CREATE OR REPLACE TEMP TABLE left_out_rows AS
WITH busy AS (
    SELECT hash(user_id) AS user_hash
    FROM staged
    WHERE reason IS NULL
    GROUP BY user_hash
    HAVING count(*) > least($max_user_events, $max_repeats)
),

ranked AS (
    SELECT
        staged.rowid AS staged_row,
        row_number() OVER (
            PARTITION BY staged.user_id, staged.ts::DATE
            ORDER BY staged.ts, staged.source, staged.row_number
        ) AS place,
        row_number() OVER (
            PARTITION BY staged.user_id, staged.ts::DATE, staged.item_id, staged.event_type
            ORDER BY staged.ts, staged.source, staged.row_number
        ) AS repeat_place
    FROM staged
    ANTI JOIN duplicate_rows ON staged.rowid = duplicate_rows.staged_row
    WHERE staged.reason IS NULL AND hash(staged.user_id) IN (SELECT busy.user_hash FROM busy)
)

SELECT
    staged_row,
    'duplicate' AS why
FROM duplicate_rows
UNION ALL
SELECT
    staged_row,
    CASE WHEN repeat_place > $max_repeats THEN 'repeat' ELSE 'busy' END AS why
FROM ranked
WHERE repeat_place > $max_repeats OR place > $max_user_events
