-- Makes: what is labelled in a night.
-- From:  sequences of the night; previous_labels, those of the last labelled night before it.
-- Grain: one user; previous_id is null for a user without a label that night.
SELECT
    sequences.user_id,
    sequences.items,
    sequences.n_events,
    sequences.last_ts,
    previous_labels.intent_id AS previous_id
FROM sequences
LEFT JOIN previous_labels
    ON sequences.user_id = previous_labels.user_id AND previous_labels.dt < $night
