-- Makes:  intent_features of one night.
-- From:   intent_labels, events (views: the partition of one night), intent_holders,
--         item_features, items (view: all), catalogue (view: the partition that the night reads),
--         named_for (the features that names of intents stand on).
-- Grain:  one feature of one intent: of each kind the first $top over-represented ones, those of
--         named_for, and of categories and event types also the first $top under-represented ones.
-- y of n users of the intent have the feature, and y' of the n' other users; p is its share of all.
-- Event types are of the users with an event of the night. Of categories and words not users are
-- counted but draws of items from their histories (intent_holders).
-- The prior is of p, and as large as it takes for $prior users to have the feature and $prior not
-- to: a = $prior p / min(p, 1 - p), b = $prior (1 - p) / min(p, 1 - p).
-- log_odds = ln((y + a) / (n - y + b)) - ln((y' + a) / (n' - y' + b))
-- z = log_odds / sqrt(1 / (y + a) + 1 / (n - y + b) + 1 / (y' + a) + 1 / (n' - y' + b))
-- Counts are in billionths until they are added up.
-- What has the larger score comes first, and of words the larger z: so a word that many titles
-- have comes before a rarer one of the same theme. No small count comes first, for its standard
-- error is large.
WITH labelled AS (
    SELECT
        user_id,
        intent_id
    FROM intent_labels
    WHERE intent_id IS NOT NULL
),

did AS (
    SELECT
        labelled.intent_id,
        events.event_type,
        count(DISTINCT labelled.user_id) AS users
    FROM events
    INNER JOIN labelled ON events.user_id = labelled.user_id
    WHERE (SELECT min(types.event_type) != max(types.event_type) FROM events AS types)
    GROUP BY labelled.intent_id, events.event_type
),

sizes AS (
    SELECT
        intent_id,
        'users' AS base,
        count(*) * 1_000_000_000 AS size
    FROM labelled
    GROUP BY intent_id
    UNION ALL
    SELECT
        intent_id,
        'active' AS base,
        count(*) * 1_000_000_000 AS size
    FROM labelled
    WHERE user_id IN (SELECT all_events.user_id FROM events AS all_events)
    GROUP BY intent_id
    UNION ALL
    SELECT
        intent_id,
        'draws' AS base,
        sum(draws) AS size
    FROM intent_holders
    GROUP BY intent_id
),

totals AS (
    SELECT
        base,
        sum(size) AS size
    FROM sizes
    GROUP BY base
),

counted AS (
    SELECT
        intent_holders.intent_id,
        'draws' AS base,
        item_features.kind,
        item_features.value,
        sum(intent_holders.draws) AS observed
    FROM intent_holders
    INNER JOIN item_features ON intent_holders.item_index = item_features.item_index
    GROUP BY intent_holders.intent_id, item_features.kind, item_features.value
    UNION ALL
    SELECT
        intent_id,
        'active' AS base,
        'event_type' AS kind,
        event_type AS value,
        users * 1_000_000_000 AS observed
    FROM did
),

overall AS (
    SELECT
        base,
        kind,
        value,
        sum(observed) AS observed
    FROM counted
    GROUP BY base, kind, value
),

holders AS (
    SELECT
        item_index,
        sum(users) AS users
    FROM intent_holders
    GROUP BY item_index
),

every AS (
    SELECT
        counted.*,
        overall.observed AS all_observed
    FROM counted
    INNER JOIN overall ON counted.kind = overall.kind AND counted.value = overall.value
    UNION ALL
    -- An intent without a category has it least of all.
    SELECT
        sizes.intent_id,
        overall.base,
        overall.kind,
        overall.value,
        0 AS observed,
        overall.observed AS all_observed
    FROM overall
    INNER JOIN sizes ON overall.base = sizes.base
    ANTI JOIN counted
        ON
            sizes.intent_id = counted.intent_id
            AND overall.kind = counted.kind
            AND overall.value = counted.value
    WHERE overall.kind IN ('category', 'event_type')
    UNION ALL
    -- What one user of several has is most of what there is, and never comes first. To leave it out
    -- here makes the statement many times as fast.
    SELECT
        intent_holders.intent_id,
        'users' AS base,
        'item' AS kind,
        items.item_id AS value,
        intent_holders.users * 1_000_000_000 AS observed,
        holders.users * 1_000_000_000 AS all_observed
    FROM intent_holders
    INNER JOIN sizes ON intent_holders.intent_id = sizes.intent_id AND sizes.base = 'users'
    INNER JOIN holders ON intent_holders.item_index = holders.item_index
    INNER JOIN items ON intent_holders.item_index = items.item_index
    WHERE intent_holders.users >= least(2, sizes.size // 1_000_000_000)
),

with_prior AS (
    SELECT
        every.intent_id,
        every.kind,
        every.value,
        every.observed / 1e9 AS observed,
        every.all_observed / 1e9 AS all_observed,
        sizes.size / 1e9 AS size,
        totals.size / 1e9 AS all_size,
        every.all_observed / totals.size AS p,
        $prior * p / least(p, 1 - p) AS a,
        $prior * (1 - p) / least(p, 1 - p) AS b
    FROM every
    INNER JOIN sizes ON every.intent_id = sizes.intent_id AND every.base = sizes.base
    INNER JOIN totals ON every.base = totals.base
    WHERE every.all_observed > 0 AND every.all_observed < totals.size
),

odds AS (
    SELECT
        *,
        observed + a AS has,
        size - observed + b AS has_not,
        all_observed - observed + a AS others_have,
        greatest(all_size - size - all_observed + observed, 0) + b AS others_have_not
    FROM with_prior
),

measured AS (
    SELECT
        *,
        ln(has / has_not) - ln(others_have / others_have_not) AS log_odds,
        sqrt(1 / has + 1 / has_not + 1 / others_have + 1 / others_have_not) AS error,
        log_odds > 0 AS is_over,
        sign(log_odds) * greatest(abs(log_odds) - 1.96 * error, 0) AS score
    FROM odds
),

noted AS (
    SELECT
        *,
        (intent_id, kind, value) IN (
            SELECT (named_for.intent_id, named_for.kind, named_for.value) FROM named_for
        ) AS is_named_for
    FROM measured
    WHERE log_odds > 0 OR (log_odds < 0 AND (kind IN ('category', 'event_type') OR is_named_for))
),

ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY intent_id, kind, is_over
            ORDER BY
                CASE kind WHEN 'word' THEN 0 ELSE abs(score) END DESC,
                abs(log_odds / error) DESC,
                observed DESC,
                value ASC
        ) AS place
    FROM noted
    QUALIFY is_named_for OR place <= $top
)

SELECT
    $night::DATE AS dt,
    ranked.intent_id,
    ranked.kind,
    ranked.value,
    catalogue.title,
    ranked.is_over,
    ranked.place::INTEGER AS rank,
    ranked.observed,
    ranked.all_observed,
    ranked.observed / ranked.size AS share,
    ranked.p AS expected_share,
    ranked.log_odds,
    ranked.log_odds / ranked.error AS z,
    ranked.score
FROM ranked
LEFT JOIN catalogue ON ranked.kind = 'item' AND ranked.value = catalogue.item_id
ORDER BY ranked.intent_id ASC, ranked.kind ASC, ranked.is_over DESC, ranked.place ASC
