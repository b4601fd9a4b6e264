-- Makes:  the table intent_holders.
-- From:   intent_labels, sequences (views: the partition of one night).
-- Grain:  one intent and one item that a user of it has.
-- users = the intent's users who have the item. draws = how often the item is expected to come when
-- items are drawn from each history of n different ones sqrt(n) times: a user counts 1/sqrt(n) for
-- each. It is in billionths: whole numbers add up to the same in any order, fractions do not.
CREATE OR REPLACE TEMP TABLE intent_holders AS
WITH histories AS (
    SELECT
        intent_labels.intent_id,
        list_distinct(sequences.items) AS items
    FROM intent_labels
    INNER JOIN sequences ON intent_labels.user_id = sequences.user_id
    WHERE intent_labels.intent_id IS NOT NULL
),

had AS (
    SELECT
        intent_id,
        round(1e9 / sqrt(len(items)))::BIGINT AS draws,
        unnest(items) AS item_index
    FROM histories
)

SELECT
    intent_id,
    item_index,
    count(*) AS users,
    sum(draws)::BIGINT AS draws
FROM had
GROUP BY intent_id, item_index
