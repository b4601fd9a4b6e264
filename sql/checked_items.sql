-- Makes: the table checked_items, what the suite of that name looks at.
-- From:  items.
-- Grain: one item.
CREATE OR REPLACE TABLE checked_items AS
SELECT
    item_id,
    item_index
FROM items
