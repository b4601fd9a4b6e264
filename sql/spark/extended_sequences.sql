-- Makes: a night's partition of sequences, from those of an earlier night and the events since.
-- From:  base, the sequences of the earlier night; added, those of the events since alone, but of
--        the users in brought_back those of all events; :night, :last_events.
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
    LEFT ANTI JOIN brought_back ON base.user_id = brought_back.user_id
),

joined AS (
    SELECT
        coalesce(kept.user_id, added.user_id) AS user_id,
        CASE
            WHEN added.items IS NULL THEN kept.items
            WHEN kept.items IS NULL THEN added.items
            ELSE concat(kept.items, added.items)
        END AS items,
        coalesce(kept.n_events, 0) + coalesce(added.n_events, 0) AS n_events,
        coalesce(added.last_ts, kept.last_ts) AS last_ts,
        CASE
            WHEN added.types IS NULL THEN kept.types
            WHEN kept.types IS NULL THEN added.types
            ELSE concat(kept.types, added.types)
        END AS types,
        CASE
            WHEN added.weights IS NULL THEN kept.weights
            WHEN kept.weights IS NULL THEN added.weights
            ELSE concat(kept.weights, added.weights)
        END AS weights,
        CASE
            WHEN added.times IS NULL THEN kept.times
            WHEN kept.times IS NULL THEN added.times
            ELSE concat(kept.times, added.times)
        END AS times
    FROM kept
    FULL JOIN added ON kept.user_id = added.user_id
)

SELECT
    :night AS dt,
    user_id,
    slice(items, greatest(cardinality(items) - :last_events, 0) + 1, :last_events) AS items,
    n_events,
    last_ts,
    slice(types, greatest(cardinality(types) - :last_events, 0) + 1, :last_events) AS types,
    slice(weights, greatest(cardinality(weights) - :last_events, 0) + 1, :last_events) AS weights,
    slice(times, greatest(cardinality(times) - :last_events, 0) + 1, :last_events) AS times
FROM joined
