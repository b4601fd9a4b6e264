-- Makes: each user's history, and how many of its events were before the night.
-- From:  sequences, items, events (views: sequences and events of the night alone);
--        $session_minutes, as the histories were built with.
-- Grain: one user, in the order of user_id.
WITH ordered AS (
    SELECT
        user_id,
        item_id,
        ts,
        -- 0: no session, every event counts.
        coalesce(
            epoch_us(ts) - lag(epoch_us(ts)) OVER (PARTITION BY user_id ORDER BY ts)
            > $session_minutes * 60000000,
            true
        ) OR $session_minutes = 0 AS begins
    FROM events
),

sessions AS (
    SELECT
        user_id,
        item_id,
        sum(begins::INTEGER) OVER (
            PARTITION BY user_id ORDER BY ts ROWS UNBOUNDED PRECEDING
        ) AS session
    FROM ordered
),

of_night AS (
    -- Of the night's events those that are in the history: an item once a session, and the k-core
    -- may leave some out.
    SELECT
        sessions.user_id,
        count(DISTINCT row(sessions.session, items.item_index)) AS events
    FROM sessions
    INNER JOIN items ON sessions.item_id = items.item_id
    INNER JOIN sequences ON sessions.user_id = sequences.user_id
    WHERE list_contains(sequences.items, items.item_index)
    GROUP BY sessions.user_id
)

SELECT
    sequences.items,
    sequences.types,
    sequences.weights,
    sequences.times,
    greatest(len(sequences.items) - coalesce(of_night.events, 0), 0) AS earlier
FROM sequences
LEFT JOIN of_night ON sequences.user_id = of_night.user_id
ORDER BY sequences.user_id
