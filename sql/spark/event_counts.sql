-- Makes: how often each user has each item.
-- From:  candidate_events.
-- Grain: one user and one item.
SELECT
    user_id,
    item_index,
    count(*) AS n_events
FROM candidate_events
GROUP BY user_id, item_index
