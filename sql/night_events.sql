-- Makes: the table night_events, what goes into events.
-- From:  staged.
-- Grain: one event; of exact duplicates the one that was read first.
CREATE OR REPLACE TEMP TABLE night_events AS
WITH distinct_events AS (
    SELECT
        user_id,
        item_id,
        event_type,
        ts,
        weight,
        -- Structs compare field by field: the first file by name, then its first row.
        min(struct_pack(source := source, row_number := row_number)) AS first_read
    FROM staged
    WHERE reason IS NULL
    GROUP BY user_id, item_id, event_type, ts, weight
)

SELECT
    ts::DATE AS dt,
    user_id,
    item_id,
    event_type,
    ts,
    weight,
    first_read.source,
    first_read.row_number
FROM distinct_events
ORDER BY dt, first_read.source, first_read.row_number
