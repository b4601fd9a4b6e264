-- Makes: the items in the core of an earlier night.
-- From:  sequence_inputs of that night.
-- Grain: one item.
SELECT explode(core_items) AS item_index
FROM sequence_inputs
