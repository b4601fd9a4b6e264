-- Makes:  how the labels of a night differ from those that it was published with before.
-- From:   labels_before (view: the labels as they were), intent_labels (view: the labels of now).
-- Grain:  one row. A user who had no intent and has one, or the other way round, is changed, too.
SELECT
    count(*) FILTER (
        WHERE labels_before.user_id IS NOT NULL
        AND intent_labels.user_id IS NOT NULL
        AND labels_before.intent_id IS DISTINCT FROM intent_labels.intent_id
    ) AS changed,
    count(*) FILTER (WHERE labels_before.user_id IS NULL) AS added,
    count(*) FILTER (WHERE intent_labels.user_id IS NULL) AS removed
FROM labels_before
FULL JOIN intent_labels ON labels_before.user_id = intent_labels.user_id
