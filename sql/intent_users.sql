-- Makes:  intent_users of one night.
-- From:   intent_labels (view: the partition of one night).
-- Grain:  one of the $top users of an intent with the highest confidence.
SELECT
    $night::DATE AS dt,
    intent_id,
    row_number() OVER (
        PARTITION BY intent_id
        ORDER BY confidence DESC, n_events DESC, user_id ASC
    )::INTEGER AS rank,
    user_id,
    confidence
FROM intent_labels
WHERE intent_id IS NOT NULL
QUALIFY rank <= $top
ORDER BY intent_id, rank
