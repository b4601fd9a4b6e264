-- Takes from core the items with fewer than $least events.
DELETE FROM core
WHERE item_id IN (
    SELECT item_id
    FROM core
    GROUP BY item_id
    HAVING sum(n_events) < $least
)
