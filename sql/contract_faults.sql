-- Makes: how many labels there are, and how many of them break the contract, by kind of fault.
-- From:  intent_labels of one night.
-- Grain: one row in all.
SELECT
    count(*) AS labels,
    count(*) FILTER (
        WHERE user_id IS NULL OR n_events IS NULL OR last_ts IS NULL OR model_version IS NULL
    ) AS without_a_value,
    count(user_id) - count(DISTINCT user_id) AS repeated,
    count(*) FILTER (
        WHERE (intent_id IS NULL) <> (confidence IS NULL)
        OR (runner_up_id IS NULL) <> (runner_up_confidence IS NULL)
        OR (intent_id IS NULL AND runner_up_id IS NOT NULL)
    ) AS with_half_an_intent,
    count(*) FILTER (
        WHERE NOT (coalesce(confidence, 0) BETWEEN 0 AND 1)
        OR NOT (coalesce(runner_up_confidence, 0) BETWEEN 0 AND 1)
    ) AS out_of_range
FROM intent_labels
