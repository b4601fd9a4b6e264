-- Makes:  the table item_features.
-- From:   intent_holders, items (view: all), catalogue (view: the partition that the night reads).
-- Grain:  one category or one word of the title of one item that a labelled user has.
-- A word that comes with a few items is of their names and no theme: of the draws d of the items
-- that have it, (sum d)^2 / sum d^2 must be five or more. That is the number of items where all are
-- drawn equally often.
-- Later nights' items do not count, so that a backfill finds the same words.
CREATE OR REPLACE TEMP TABLE item_features AS
WITH drawn AS (
    SELECT
        item_index,
        sum(draws) AS draws
    FROM intent_holders
    GROUP BY item_index
),

described AS (
    SELECT
        items.item_index,
        drawn.draws,
        catalogue.title,
        catalogue.categories
    FROM items
    INNER JOIN catalogue ON items.item_id = catalogue.item_id
    INNER JOIN drawn ON items.item_index = drawn.item_index
),

categories AS (
    SELECT
        item_index,
        trim(unnest(categories)) AS category
    FROM described
),

words AS (
    SELECT DISTINCT
        item_index,
        draws,
        unnest(
            regexp_extract_all(lower(left(title, 500)), '[\p{L}\p{N}]+(?:[''’-][\p{L}\p{N}]+)*')
        ) AS word
    FROM described
)

SELECT DISTINCT
    item_index,
    'category' AS kind,
    category AS value
FROM categories
WHERE category != ''
UNION ALL
SELECT
    item_index,
    'word' AS kind,
    word AS value
FROM words
WHERE
    length(word) BETWEEN 3 AND 30
    AND regexp_matches(word, '\p{L}')
    AND word NOT IN (
        'and', 'are', 'for', 'from', 'her', 'his', 'its', 'not', 'our', 'that', 'the', 'this',
        'with', 'you', 'your'
    )
QUALIFY
    (sum(draws) OVER (PARTITION BY word))::DOUBLE ** 2
    >= 5 * sum(draws::DOUBLE ** 2) OVER (PARTITION BY word)
