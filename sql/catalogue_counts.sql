-- Makes: what became of the rows of the catalogue, and the first item whose rows disagree.
-- From:  catalogue_rows, catalogue_items.
-- Grain: one row. A duplicate says the same as the row that counts, a replaced row does not.
WITH compared AS (
    SELECT
        catalogue_rows.item_id,
        (
            catalogue_rows.title IS DISTINCT FROM catalogue_items.title
            OR catalogue_rows.categories IS DISTINCT FROM catalogue_items.categories
            OR catalogue_rows.attributes IS DISTINCT FROM catalogue_items.attributes
        ) AS differs
    FROM catalogue_rows
    INNER JOIN catalogue_items ON catalogue_rows.item_id = catalogue_items.item_id
    WHERE catalogue_rows.reason IS null
),

kept AS (
    SELECT count(*) AS items
    FROM catalogue_items
)

SELECT
    (SELECT count(*) FROM catalogue_rows) AS rows_read,
    kept.items,
    -- The row that counts is the same as itself.
    count(*) FILTER (WHERE NOT compared.differs) - kept.items AS rows_duplicate,
    count(*) FILTER (WHERE compared.differs) AS rows_replaced,
    (
        SELECT count(*)
        FROM catalogue_rows
        WHERE catalogue_rows.reason IS NOT null
    ) AS rows_rejected,
    min(compared.item_id) FILTER (WHERE compared.differs) AS replaced_item
FROM kept
LEFT JOIN compared ON true
GROUP BY kept.items
