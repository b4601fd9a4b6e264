-- Makes: a night's partition of sequences, from those of an earlier night and the events since.
-- From:  base, the sequences of the earlier night; added, those of the events since alone; $night,
--        $last_events.
-- Grain: one user; items oldest first.
SELECT
    $night::DATE AS dt,
    coalesce(base.user_id, added.user_id) AS user_id,
    CASE
        WHEN added.items IS NULL THEN base.items
        ELSE list_slice(list_concat(base.items, added.items), -$last_events, -1)
    END AS items,
    coalesce(base.n_events, 0) + coalesce(added.n_events, 0) AS n_events,
    coalesce(added.last_ts, base.last_ts) AS last_ts
FROM base
FULL JOIN added ON base.user_id = added.user_id
ORDER BY coalesce(base.user_id, added.user_id)
