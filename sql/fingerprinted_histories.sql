-- Makes:  what the fingerprint of a night's data is taken of.
-- From:   sequences (view: the partition of one night).
-- Grain:  one user, in the order of user_id: how the rows lie in files says nothing about the data.
SELECT
    md5_number_lower(user_id) AS user_hash,
    coalesce(epoch_us(last_ts), 0) AS last_us,
    items,
    types,
    weights,
    times
FROM sequences
ORDER BY user_id;
