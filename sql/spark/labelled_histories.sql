-- Makes: what is labelled in a night.
-- From:  sequences of the night; previous_labels and previous_evidence, of the last labelled night
--        before it.
-- Grain: one user; previous_id is null for a user without a label that night; idle: no event since;
--        held_since is null for a user whose label was not held that night.
WITH held AS (
    SELECT
        user_id,
        held_since
    FROM previous_evidence
    WHERE held_since IS NOT NULL AND dt < :night
)

SELECT
    sequences.user_id,
    sequences.items,
    sequences.types,
    sequences.weights,
    sequences.times,
    sequences.n_events,
    sequences.last_ts,
    previous_labels.intent_id AS previous_id,
    coalesce(sequences.last_ts = previous_labels.last_ts, FALSE) AS idle,
    held.held_since
FROM sequences
LEFT JOIN previous_labels
    ON sequences.user_id = previous_labels.user_id AND previous_labels.dt < :night
LEFT JOIN held ON sequences.user_id = held.user_id
