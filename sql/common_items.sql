-- Makes:  the items that at least $least users with an intent have.
-- From:   intent_holders, items (view: all).
-- Grain:  one item.
WITH common AS (
    SELECT item_index FROM intent_holders
    GROUP BY item_index
    HAVING sum(users) >= $least
)

SELECT items.item_id
FROM common
INNER JOIN items ON common.item_index = items.item_index
ORDER BY items.item_id
