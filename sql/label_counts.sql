-- Makes:  label_counts of one night.
-- From:   intent_labels, label_evidence (views: the partitions of one night), previous_labels
--         (view: the labels of the labelled night before; no rows: there is none).
-- Grain:  one row.
WITH compared AS (
    SELECT
        (intent_labels.user_id IS NOT NULL) AS is_labelled,
        (intent_labels.intent_id IS NOT NULL) AS has_intent,
        intent_labels.intent_id,
        label_evidence.clear AS is_clear,
        (label_evidence.held_since IS NOT NULL) AS is_held,
        (
            intent_labels.user_id IS NOT NULL AND previous_labels.user_id IS NOT NULL
        ) AS is_in_both,
        (intent_labels.intent_id IS DISTINCT FROM previous_labels.intent_id) AS is_changed,
        (
            intent_labels.n_events = previous_labels.n_events
            AND intent_labels.last_ts = previous_labels.last_ts
        ) AS is_idle
    FROM intent_labels
    FULL JOIN previous_labels ON intent_labels.user_id = previous_labels.user_id
    LEFT JOIN label_evidence ON intent_labels.user_id = label_evidence.user_id
),

counted AS (
    SELECT
        intent_id,
        count(*) FILTER (WHERE is_clear) AS clear
    FROM compared
    WHERE has_intent AND is_clear IS NOT NULL
    GROUP BY intent_id
)

SELECT
    $night::DATE AS dt,
    count(*) FILTER (WHERE is_labelled) AS users,
    count(*) FILTER (WHERE has_intent) AS users_with_intent,
    count(*) FILTER (WHERE is_clear) AS clear,
    count(*) FILTER (WHERE is_held) AS held,
    count(*) FILTER (WHERE is_in_both) AS compared,
    count(*) FILTER (WHERE is_in_both AND is_changed) AS changed,
    count(*) FILTER (WHERE is_in_both AND is_idle) AS idle,
    count(*) FILTER (WHERE is_in_both AND is_idle AND is_changed) AS idle_changed,
    (
        SELECT
            coalesce(
                list(
                    struct_pack(intent_id := counted.intent_id, clear := counted.clear)
                    ORDER BY counted.intent_id
                ),
                []
            )
        FROM counted
    ) AS of_intents
FROM compared
