-- Makes:  the histories a model can be trained and judged on.
-- From:   sequences (view: the partition of one night).
-- Grain:  one user, in the order of user_id, so that the same night gives the same model.
SELECT
    items,
    types,
    weights,
    times,
    last_ts,
    md5_number_lower(user_id) AS user_hash
FROM sequences
WHERE len(items) >= $min_events
ORDER BY user_id;
