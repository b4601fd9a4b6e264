-- Makes: the table duplicate_rows, the exact duplicates among staged events.
-- From:  staged.
-- Grain: one row of staged; of equal events the one that was read first is not in it.
-- Hashes are compared first: only rows that share one are looked at whole.
CREATE OR REPLACE TEMP TABLE duplicate_rows AS
WITH shared AS (
    SELECT hash(user_id, item_id, event_type, ts, weight) AS row_hash
    FROM staged
    WHERE reason IS NULL
    GROUP BY row_hash
    HAVING count(*) > 1
),

ranked AS (
    SELECT
        rowid AS staged_row,
        row_number() OVER (
            PARTITION BY user_id, item_id, event_type, ts, weight
            ORDER BY source, row_number
        ) AS place
    FROM staged
    WHERE
        reason IS NULL
        AND hash(user_id, item_id, event_type, ts, weight) IN (SELECT shared.row_hash FROM shared)
)

SELECT staged_row
FROM ranked
WHERE place > 1
