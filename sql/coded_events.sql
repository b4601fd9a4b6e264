-- Makes: the events with numbers in place of all text, 24 bytes each.
-- From:  read_events, the events that are read, users, items, event_sources; the variable
--        type_names (null: none).
-- Grain: one event, in no order that is to be relied on. Of events of the same time, the one with
-- the smaller number `read` was read first: by the file's name, then by its row in it.
SELECT
    users.user_number,
    items.item_index,
    epoch_us(read_events.ts) AS ts_us,
    list_position(getvariable('type_names'), read_events.event_type) AS type_number,
    read_events.weight,
    (event_sources.source_number << 40) + read_events.row_number AS read
FROM read_events
INNER JOIN users ON read_events.user_id = users.user_id
INNER JOIN items ON read_events.item_id = items.item_id
INNER JOIN event_sources ON read_events.source = event_sources.source
