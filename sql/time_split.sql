-- Makes: each user's history before the night, and the first item of the night, to be found.
-- From:  sequences, items, events (views: sequences and events of the night alone).
-- Grain: one user, in the order of user_id; target is null without a history or event that night.
WITH of_night AS (
    -- Of the night's events those that are in the history: the k-core may leave some out.
    SELECT
        sequences.user_id,
        count(*) AS events
    FROM events
    INNER JOIN items ON events.item_id = items.item_id
    INNER JOIN sequences ON events.user_id = sequences.user_id
    WHERE list_contains(sequences.items, items.item_index)
    GROUP BY sequences.user_id
),

histories AS (
    SELECT
        sequences.user_id,
        sequences.items,
        greatest(len(sequences.items) - coalesce(of_night.events, 0), 0) AS earlier
    FROM sequences
    LEFT JOIN of_night ON sequences.user_id = of_night.user_id
)

SELECT
    items[1:earlier] AS items,
    CASE WHEN earlier > 0 THEN items[earlier + 1] END AS target
FROM histories
ORDER BY user_id
