-- Makes: the table checked_label_totals, what the suite of that name looks at.
-- From:  intent_labels, label_evidence, sequences and intent_profiles of the night.
-- Grain: one row. utilisation: exp(-sum p ln p) over the intents' shares p, by their number.
--        kept_meaning: the least of the intents in use that a person has named.
CREATE OR REPLACE TABLE checked_label_totals AS
WITH shares AS (
    SELECT count(*) / sum(count(*)) OVER () AS share
    FROM intent_labels
    WHERE intent_id IS NOT NULL
    GROUP BY intent_id
)

SELECT
    (
        SELECT count(*)
        FROM sequences
        ANTI JOIN intent_labels ON sequences.user_id = intent_labels.user_id
    ) AS users_without_label,
    (
        SELECT count(*)
        FROM intent_labels
        ANTI JOIN label_evidence
            ON
                intent_labels.user_id = label_evidence.user_id
                AND intent_labels.model_version = label_evidence.model_version
    ) AS labels_without_evidence,
    (
        SELECT count(*) FILTER (WHERE intent_labels.intent_id IS NULL) / nullif(count(*), 0)
        FROM intent_labels
    ) AS unlabelled_share,
    max(share) AS largest_share,
    exp(-sum(share * ln(share))) / (SELECT count(*) FROM intent_profiles) AS utilisation,
    (
        SELECT min(intent_profiles.kept_meaning)
        FROM intent_profiles
        WHERE intent_profiles.status = 'active'
    ) AS kept_meaning
FROM shares
