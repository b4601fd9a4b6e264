-- Makes: the table duplicate_rows, the exact duplicates among staged events.
-- From:  staged; shared_hashes, the row_hash of event_hashes that more than one event has.
-- Grain: one row of staged; of equal events the one that was read first is not in it.
-- Only rows that share a hash are looked at whole.
CREATE OR REPLACE TEMP TABLE duplicate_rows AS
WITH ranked AS (
    SELECT
        rowid AS staged_row,
        row_number() OVER (
            PARTITION BY user_id, item_id, event_type, ts, weight
            ORDER BY source, row_number
        ) AS place
    FROM staged
    WHERE
        reason IS NULL
        AND hash(user_id, item_id, event_type, ts, weight) IN (
            SELECT shared_hashes.row_hash FROM shared_hashes
        )
)

SELECT staged_row
FROM ranked
WHERE place > 1
