-- Makes: what is labelled in a night.
-- From:  sequences of the night; previous_labels, those of the last labelled night before it.
-- Grain: one user; previous_id is null for a user without a label that night; idle: no event since.
SELECT
    sequences.user_id,
    sequences.items,
    sequences.n_events,
    sequences.last_ts,
    previous_labels.intent_id AS previous_id,
    coalesce(sequences.last_ts = previous_labels.last_ts, false) AS idle
FROM sequences
LEFT JOIN previous_labels
    ON sequences.user_id = previous_labels.user_id AND previous_labels.dt < $night
