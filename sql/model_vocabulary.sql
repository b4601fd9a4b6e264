-- Makes:  the items that a night's model knows, in the order of their numbers in it (1, 2, ...).
-- From:   sequences (view: the partition of one night), items (view: all).
-- Grain:  one item of the night's histories. The order is that of the ids, byte by byte, so that it
-- does not depend on which nights were run before.
WITH had AS (
    SELECT DISTINCT unnest(items) AS item_index
    FROM sequences
)

SELECT items.item_id
FROM items
SEMI JOIN had ON items.item_index = had.item_index
ORDER BY items.item_id;
