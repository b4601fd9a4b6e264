-- Makes: rows to add to items, for the items that have no index yet.
-- From:  events up to the end of the night, items.
-- Grain: one item. Indices go on from the largest one, by the day first seen, then by item_id.
WITH first_days AS (
    SELECT
        item_id,
        min(dt) AS first_seen
    FROM events
    GROUP BY item_id
),

taken AS (
    SELECT coalesce(max(item_index), 0) AS last_index
    FROM items
)

SELECT
    first_days.item_id,
    cast(
        taken.last_index
        + row_number() OVER (ORDER BY first_days.first_seen, first_days.item_id) AS INT
    ) AS item_index,
    first_days.first_seen
FROM first_days
CROSS JOIN taken
LEFT ANTI JOIN items ON first_days.item_id = items.item_id
ORDER BY first_days.first_seen, first_days.item_id
