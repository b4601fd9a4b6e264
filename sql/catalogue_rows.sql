-- Makes: rows of catalogue_rows, from one part of the catalogue.
-- From:  source_rows, as tasks/sources/items.py makes it; $part, the part's place among the parts.
-- Grain: one row of the part.
INSERT INTO catalogue_rows
SELECT
    $part AS part,
    row_number,
    item_id,
    title,
    coalesce(categories, []) AS categories,
    attributes,
    coalesce(broken, unread, CASE WHEN item_id IS null THEN 'no item' END) AS reason
FROM source_rows
