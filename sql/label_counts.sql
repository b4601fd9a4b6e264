-- Makes:  label_counts of one night.
-- From:   intent_labels, label_evidence (views: the partitions of one night), previous_labels
--         (view: the labels of the labelled night before; no rows: there is none).
-- Grain:  one row.
SELECT
    $night::DATE AS dt,
    count(*) FILTER (WHERE intent_labels.user_id IS NOT NULL) AS users,
    count(intent_labels.intent_id) AS users_with_intent,
    count(*) FILTER (WHERE label_evidence.clear) AS clear,
    count(*) FILTER (WHERE both_nights) AS compared,
    count(*) FILTER (WHERE both_nights AND is_changed) AS changed,
    count(*) FILTER (WHERE both_nights AND is_idle) AS idle,
    count(*) FILTER (WHERE both_nights AND is_idle AND is_changed) AS idle_changed
FROM intent_labels
FULL JOIN previous_labels ON intent_labels.user_id = previous_labels.user_id
LEFT JOIN label_evidence ON intent_labels.user_id = label_evidence.user_id
CROSS JOIN LATERAL (
    SELECT
        intent_labels.user_id IS NOT NULL AND previous_labels.user_id IS NOT NULL AS both_nights,
        intent_labels.intent_id IS DISTINCT FROM previous_labels.intent_id AS is_changed,
        intent_labels.n_events IS NOT DISTINCT FROM previous_labels.n_events
        AND intent_labels.last_ts IS NOT DISTINCT FROM previous_labels.last_ts AS is_idle
) AS compared
