-- Makes:  the table item_features.
-- From:   intent_holders, items (view: all), catalogue (view: the partition that the night reads).
-- Grain:  one category or one word of the title of one item that a labelled user has.
-- A word that the titles of fewer than two of these items have is the name of a thing and no theme.
-- Later nights' items do not count, so that a backfill finds the same words.
CREATE OR REPLACE TEMP TABLE item_features AS
WITH described AS (
    SELECT
        items.item_index,
        catalogue.title,
        catalogue.categories
    FROM items
    INNER JOIN catalogue ON items.item_id = catalogue.item_id
    SEMI JOIN intent_holders ON items.item_index = intent_holders.item_index
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
QUALIFY count(*) OVER (PARTITION BY word) >= 2
