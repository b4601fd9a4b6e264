-- Makes: the events with numbers in place of all text, 24 bytes each.
-- From:  events up to the end of the night, users, items, event_sources.
-- Grain: one event, in no order that is to be relied on. Of events of the same time, the one with
-- the smaller number `read` was read first: by the file's name, then by its row in it.
SELECT
    users.user_number,
    items.item_index,
    epoch_us(events.ts) AS ts_us,
    (event_sources.source_number << 40) + events.row_number AS read
FROM events
INNER JOIN users ON events.user_id = users.user_id
INNER JOIN items ON events.item_id = items.item_id
INNER JOIN event_sources ON events.source = event_sources.source
