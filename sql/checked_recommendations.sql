-- Makes: the table checked_recommendations, what the suite of that name looks at.
-- From:  user_recommendations, intent_labels and sequences of the night, and items; the variables
--        leave_out_had and part.
-- Grain: one row. lists_with_had_items: of one user in part, drawn by hash: all would cost more
--        than the rest. Null if items that a user has had may be recommended.
CREATE OR REPLACE TABLE checked_recommendations AS
WITH lists AS (
    SELECT
        user_id,
        model_version,
        list_transform(items, LAMBDA item: item.item_id) AS ids,
        list_transform(items, LAMBDA item: item.score) AS scores
    FROM user_recommendations
),

faults AS (
    SELECT
        count(*) FILTER (
            WHERE
            list_count(ids) < len(ids) OR len(list_distinct(ids)) < len(ids)
        ) AS faulty_lists,
        count(*) FILTER (
            WHERE
            len(list_filter(scores, LAMBDA score: isfinite(score))) < len(scores)
            OR scores != list_reverse_sort(scores)
        ) AS unordered_lists
    FROM lists
),

labelled AS (
    SELECT
        count(*) FILTER (
            WHERE
            lists.model_version IS DISTINCT FROM intent_labels.model_version
        ) AS labels_without_recommendations,
        count(*) FILTER (
            WHERE
            intent_labels.intent_id IS NOT NULL AND len(lists.ids) = 0
        ) AS users_without_items
    FROM intent_labels
    LEFT JOIN lists ON intent_labels.user_id = lists.user_id
),

strangers AS (
    SELECT count(*) AS recommendations_without_label
    FROM lists
    ANTI JOIN intent_labels ON lists.user_id = intent_labels.user_id
),

recommended AS (
    SELECT
        user_id,
        unnest(ids) AS item_id
    FROM lists
    WHERE hash(user_id) % getvariable('part') = 0
),

histories AS (
    SELECT
        user_id,
        unnest(items) AS item_index
    FROM sequences
    WHERE hash(user_id) % getvariable('part') = 0
),

had AS (
    SELECT count(DISTINCT recommended.user_id) AS users
    FROM recommended
    INNER JOIN items ON recommended.item_id = items.item_id
    SEMI JOIN histories
        ON
            recommended.user_id = histories.user_id
            AND items.item_index = histories.item_index
)

SELECT
    labelled.labels_without_recommendations,
    labelled.users_without_items,
    strangers.recommendations_without_label,
    faults.faulty_lists,
    faults.unordered_lists,
    CASE WHEN getvariable('leave_out_had') THEN had.users END AS lists_with_had_items
FROM labelled
CROSS JOIN strangers
CROSS JOIN faults
CROSS JOIN had
