-- Makes:  the users of one intent, for a download.
-- From:   intent_labels, label_evidence (views: the partitions of one night).
-- Grain:  one user of the intent $intent who passes the filters: $clear (only clear labels),
--         $confidence (how_sure is at least that) and $events (at least), $since (the newest event
--         is of this date or later).
SELECT
    intent_labels.user_id,
    intent_labels.intent_id,
    label_evidence.calibrated_confidence AS how_sure,
    label_evidence.clear,
    intent_labels.n_events,
    intent_labels.last_ts
FROM intent_labels
LEFT JOIN label_evidence
    ON
        intent_labels.user_id = label_evidence.user_id
        AND label_evidence.intent_id = $intent::INTEGER
WHERE
    intent_labels.intent_id = $intent::INTEGER
    AND (NOT $clear::BOOLEAN OR label_evidence.clear)
    AND coalesce(label_evidence.calibrated_confidence, 0) >= $confidence::DOUBLE
    AND intent_labels.n_events >= $events::INTEGER
    AND intent_labels.last_ts >= $since::DATE
ORDER BY intent_labels.user_id
