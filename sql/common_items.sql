-- Makes:  the items that at least $least users with an intent have.
-- From:   intent_holders, items (view: all).
-- Grain:  one item.
SELECT items.item_id
FROM intent_holders
INNER JOIN items ON intent_holders.item_index = items.item_index
GROUP BY items.item_id
HAVING sum(intent_holders.users) >= $least
ORDER BY items.item_id
