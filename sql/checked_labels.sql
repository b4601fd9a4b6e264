-- Makes: the table checked_labels, what the suite of that name looks at.
-- From:  intent_labels, sequences and intent_profiles of the night.
-- Grain: one label.
CREATE OR REPLACE TABLE checked_labels AS
SELECT
    user_id,
    intent_id,
    confidence,
    runner_up_confidence,
    model_version,
    user_id IN (SELECT sequences.user_id FROM sequences) AS has_history,
    intent_id IS NULL
    OR intent_id IN (SELECT intent_profiles.intent_id FROM intent_profiles) AS has_profile
FROM intent_labels
