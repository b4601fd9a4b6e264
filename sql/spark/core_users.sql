-- Makes: the users who have enough events of the items that are in the core so far.
-- From:  event_counts; core_items, those so far; base, the sequences of the night that is added to,
--        whose users have enough without these events; :min_user.
-- Grain: one user.
WITH users AS (
    SELECT
        event_counts.user_id,
        sum(event_counts.n_events) AS n_events
    FROM event_counts
    LEFT SEMI JOIN core_items ON event_counts.item_index = core_items.item_index
    GROUP BY event_counts.user_id
)

SELECT users.user_id
FROM users
LEFT JOIN base ON users.user_id = base.user_id
WHERE users.n_events >= :min_user OR base.user_id IS NOT NULL
