-- Makes:  intent_flows of one night.
-- From:   intent_labels (view: the partition of one night), previous_labels (view: that of the
--         labelled night before).
-- Grain:  one intent before and one intent now that some user had; null for none, or no row.
SELECT
    $night::DATE AS dt,
    previous_labels.intent_id AS from_intent_id,
    intent_labels.intent_id AS to_intent_id,
    count(*) AS users
FROM intent_labels
FULL JOIN previous_labels ON intent_labels.user_id = previous_labels.user_id
GROUP BY previous_labels.intent_id, intent_labels.intent_id
ORDER BY from_intent_id, to_intent_id
