-- Makes: the items that have enough events of the users who are in the core so far.
-- From:  event_counts; core_users, those so far; base_items, the core of the night that is added
--        to, which have enough without these events; :min_item.
-- Grain: one item.
WITH items AS (
    SELECT
        event_counts.item_index,
        sum(event_counts.n_events) AS n_events
    FROM event_counts
    LEFT SEMI JOIN core_users ON event_counts.user_id = core_users.user_id
    GROUP BY event_counts.item_index
)

SELECT items.item_index
FROM items
LEFT JOIN base_items ON items.item_index = base_items.item_index
WHERE items.n_events >= :min_item OR base_items.item_index IS NOT NULL
