-- Makes: a night's partition of sequences, from those of an earlier night and the events since.
-- From:  base, the sequences of the earlier night; added, those of the events since alone, but of
--        the users in brought_back those of all events; $night, $last_events.
-- Grain: one user; items oldest first.
WITH kept AS (
    SELECT
        base.user_id,
        base.items,
        base.n_events,
        base.last_ts,
        base.types,
        base.weights,
        base.times
    FROM base
    ANTI JOIN brought_back ON base.user_id = brought_back.user_id
)

SELECT
    $night::DATE AS dt,
    coalesce(kept.user_id, added.user_id) AS user_id,
    CASE
        WHEN added.items IS NULL THEN kept.items
        ELSE list_slice(list_concat(kept.items, added.items), -$last_events, -1)
    END AS items,
    coalesce(kept.n_events, 0) + coalesce(added.n_events, 0) AS n_events,
    coalesce(added.last_ts, kept.last_ts) AS last_ts,
    CASE
        WHEN added.types IS NULL THEN kept.types
        ELSE list_slice(list_concat(kept.types, added.types), -$last_events, -1)
    END AS types,
    CASE
        WHEN added.weights IS NULL THEN kept.weights
        ELSE list_slice(list_concat(kept.weights, added.weights), -$last_events, -1)
    END AS weights,
    CASE
        WHEN added.times IS NULL THEN kept.times
        ELSE list_slice(list_concat(kept.times, added.times), -$last_events, -1)
    END AS times
FROM kept
FULL JOIN added ON kept.user_id = added.user_id
ORDER BY coalesce(kept.user_id, added.user_id)
