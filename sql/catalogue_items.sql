-- Makes: the table catalogue_items, the catalogue as the night reads it.
-- From:  catalogue_rows; $night.
-- Grain: one item: of several rows of an item the last one, by part and row. The values only
--        decide between rows of a table, which may share a number.
CREATE OR REPLACE TEMP TABLE catalogue_items AS
SELECT
    $night::DATE AS dt,
    item_id,
    title,
    categories,
    attributes
FROM catalogue_rows
WHERE reason IS null
QUALIFY
    row_number() OVER (
        PARTITION BY item_id
        ORDER BY part DESC, row_number DESC, title ASC, categories ASC, attributes ASC
    ) = 1
ORDER BY item_id
