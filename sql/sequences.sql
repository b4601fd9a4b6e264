-- Makes: a night's partition of sequences.
-- From:  kept_events, items; $night, $last_events.
-- Grain: one user; items oldest first.
-- Order: by ts; events of the same ts as they were read: by the file's name, then by their row in
-- it. Neither depends on anything that came later, so a backfill orders them the same.
WITH newest_first AS (
    SELECT
        kept_events.user_id,
        items.item_index,
        kept_events.ts,
        row_number() OVER (
            PARTITION BY kept_events.user_id
            ORDER BY kept_events.ts DESC, kept_events.source DESC, kept_events.row_number DESC
        ) AS place,
        count(*) OVER (PARTITION BY kept_events.user_id) AS n_events
    FROM kept_events
    INNER JOIN items ON kept_events.item_id = items.item_id
    QUALIFY place <= $last_events
)

SELECT
    $night::DATE AS dt,
    user_id,
    list(item_index ORDER BY place DESC) AS items,
    any_value(n_events)::INTEGER AS n_events,
    max(ts) AS last_ts
FROM newest_first
GROUP BY user_id
ORDER BY user_id
