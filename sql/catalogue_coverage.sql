-- Makes: how many of the night's items the catalogue knows.
-- From:  items_of_night, the events of the night; catalogue.
-- Grain: one row. written_otherwise: items without a row for which there would be one if a number
--        were written in the other way, 12 or 12.0; and the first of them.
WITH night_items AS (
    SELECT DISTINCT item_id
    FROM items_of_night
),

known AS (
    SELECT
        night_items.item_id,
        catalogue.item_id IS NOT null AS has_row,
        catalogue.title IS NOT null AS has_title
    FROM night_items
    LEFT JOIN catalogue ON night_items.item_id = catalogue.item_id
),

otherwise AS (
    SELECT known.item_id
    FROM known
    INNER JOIN catalogue
        ON
            CASE
                WHEN known.item_id LIKE '%.0' THEN regexp_replace(known.item_id, '\.0$', '')
                ELSE known.item_id || '.0'
            END = catalogue.item_id
    WHERE NOT known.has_row
)

SELECT
    count(*) AS night_items,
    count(*) FILTER (WHERE NOT has_row) AS items_without_row,
    count(*) FILTER (WHERE NOT has_title) AS items_without_title,
    (SELECT count(*) FROM otherwise) AS written_otherwise,
    (SELECT min(otherwise.item_id) FROM otherwise) AS otherwise_item
FROM known
