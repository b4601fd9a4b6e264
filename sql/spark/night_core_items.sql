-- Makes: all items in the core, with those of the night that is added to.
-- From:  core_items, base_items.
-- Grain: one item.
SELECT item_index FROM core_items
UNION
SELECT item_index FROM base_items
