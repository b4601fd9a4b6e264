-- Makes:  one number for what a night trains on: equal contents give equal numbers, in any order.
-- From:   sequences (view: the partition of one night), items (view: all).
-- Grain:  one row: users, n_items (the largest item_index in use), fingerprint.
-- Only items that the night's histories can hold take part, so that items first seen on a later
-- night change nothing when this night is run again.
WITH vocabulary AS (
    SELECT coalesce(max(list_max(items)), 0) AS n_items
    FROM sequences
),

history_hash AS (
    SELECT
        count(*) AS users,
        sum(md5_number_lower(items::VARCHAR || ':' || user_id)) AS hash
    FROM sequences
),

item_hash AS (
    SELECT sum(md5_number_lower(item_index::VARCHAR || ':' || item_id)) AS hash
    FROM items
    WHERE item_index <= (SELECT vocabulary.n_items FROM vocabulary)
)

SELECT
    history_hash.users,
    vocabulary.n_items,
    history_hash.hash::VARCHAR || ':' || coalesce(item_hash.hash, 0)::VARCHAR AS fingerprint
FROM vocabulary
CROSS JOIN history_hash
CROSS JOIN item_hash;
