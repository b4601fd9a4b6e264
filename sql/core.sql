-- Makes: the table core, what the k-core filter starts from.
-- From:  events up to the end of the night.
-- Grain: one user and item.
CREATE OR REPLACE TEMP TABLE core AS
SELECT
    user_id,
    item_id,
    count(*) AS n_events
FROM events
GROUP BY user_id, item_id
