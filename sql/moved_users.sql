-- Makes:  the users whose intent differs between two nights, for a download.
-- From:   labels_before, labels_after (views: intent_labels of one night each).
-- Grain:  one user; with $intent (null: all) only one who had it before or has it after.
SELECT
    coalesce(labels_after.user_id, labels_before.user_id) AS user_id,
    labels_before.intent_id AS from_intent_id,
    labels_after.intent_id AS to_intent_id
FROM labels_before
FULL JOIN labels_after ON labels_before.user_id = labels_after.user_id
WHERE
    labels_before.intent_id IS DISTINCT FROM labels_after.intent_id
    AND (
        $intent::INTEGER IS NULL
        OR labels_before.intent_id = $intent::INTEGER
        OR labels_after.intent_id = $intent::INTEGER
    )
ORDER BY user_id
