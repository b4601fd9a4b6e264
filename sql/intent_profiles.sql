-- Makes:  intent_profiles of one night.
-- From:   intent_labels, label_evidence (views: the partitions of one night), intent_holders,
--         items (view: all),
--         model_intents (the intents of the model, and those it retired if it is of this night),
--         effective_names (the names of intents on this night).
-- Grain:  one intent of model_intents, whether it has users or not.
-- lift =  share of the intent's users who have the item / share of all labelled users who have it.
-- An item that two people have is easily exclusive to an intent, and says nothing about it. So the
-- top items are those of highest lift among the $pool items that most of the intent's users have,
-- each held by at least two of them where the intent has two.
WITH sizes AS (
    SELECT
        intent_id,
        count(*) AS users,
        quantile_disc(confidence, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) AS deciles
    FROM intent_labels
    WHERE intent_id IS NOT NULL
    GROUP BY intent_id
),

sureness AS (
    SELECT
        intent_id,
        quantile_disc(
            calibrated_confidence, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        ) AS deciles
    FROM label_evidence
    WHERE calibrated_confidence IS NOT NULL
    GROUP BY intent_id
),

holders AS (
    SELECT
        intent_id,
        item_index,
        users AS in_intent,
        sum(users) OVER (PARTITION BY item_index) AS in_all
    FROM intent_holders
),

pooled AS (
    SELECT
        holders.intent_id,
        items.item_id,
        holders.in_intent,
        (holders.in_intent / sizes.users)
        / (holders.in_all / (SELECT sum(all_sizes.users) FROM sizes AS all_sizes)) AS lift
    FROM holders
    INNER JOIN sizes ON holders.intent_id = sizes.intent_id
    INNER JOIN items ON holders.item_index = items.item_index
    WHERE holders.in_intent >= least(2, sizes.users)
    QUALIFY row_number() OVER (
        PARTITION BY holders.intent_id
        ORDER BY holders.in_intent DESC, holders.in_all ASC, items.item_id ASC
    ) <= $pool
),

tops AS (
    SELECT
        pooled.intent_id,
        list_slice(
            list(
                { 'item_id': pooled.item_id, 'lift': pooled.lift::FLOAT }
                ORDER BY pooled.lift DESC, pooled.in_intent DESC, pooled.item_id ASC
            ),
            1,
            $top
        ) AS top_items
    FROM pooled
    GROUP BY pooled.intent_id
)

SELECT
    $night::DATE AS dt,
    intents.intent_id::INTEGER AS intent_id,
    coalesce(sizes.users, 0) AS users,
    coalesce(sizes.users / (SELECT sum(all_sizes.users) FROM sizes AS all_sizes), 0.0) AS share,
    coalesce(tops.top_items, []) AS top_items,
    intents.born,
    CASE
        WHEN intents.retired THEN 'retired'
        WHEN sizes.users IS NULL THEN 'empty'
        ELSE 'active'
    END AS status,
    intents.came_from,
    effective_names.name,
    effective_names.description,
    effective_names.named_by,
    effective_names.kept_meaning,
    -- A model that is not calibrated has its own confidence alone.
    coalesce(sureness.deciles, sizes.deciles, [])::FLOAT[] AS confidence_deciles
FROM model_intents AS intents
LEFT JOIN sizes ON intents.intent_id = sizes.intent_id
LEFT JOIN sureness ON intents.intent_id = sureness.intent_id
LEFT JOIN tops ON intents.intent_id = tops.intent_id
LEFT JOIN effective_names ON intents.intent_id = effective_names.intent_id
ORDER BY intents.intent_id;
