-- Makes: rows of sequences, from events alone.
-- From:  whole_events; :night, :last_events; :detailed, whether types, weights and times are
--        wanted.
-- Grain: one user; items oldest first, and of each its type, weight and time, or null for all.
WITH from_the_end AS (
    SELECT
        user_id,
        item_index,
        ts,
        event_type,
        weight,
        row_number() OVER (
            PARTITION BY user_id
            ORDER BY ts DESC, source DESC, row_number DESC
        ) AS place,
        count(*) OVER (PARTITION BY user_id) AS n_events
    FROM whole_events
),

gathered AS (
    SELECT
        user_id,
        array_sort(collect_list(struct(-place, item_index, event_type, weight, ts))) AS events,
        max(n_events) AS n_events,
        max(ts) AS last_ts
    FROM from_the_end
    WHERE place <= :last_events
    GROUP BY user_id
)

SELECT
    :night AS dt,
    user_id,
    events.item_index AS items,
    cast(n_events AS INT) AS n_events,
    last_ts,
    CASE WHEN :detailed THEN events.event_type END AS types,
    CASE WHEN :detailed THEN events.weight END AS weights,
    CASE WHEN :detailed THEN events.ts END AS times
FROM gathered
