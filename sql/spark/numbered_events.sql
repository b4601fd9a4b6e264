-- Makes: the events with the numbers of their items.
-- From:  read_events, the events that are read; items; :detailed, whether types and weights are
--        wanted.
-- Grain: one event. Of a user's events of the same time the one was read first whose source comes
--        first by name, and of one source, the one of the smaller row_number.
SELECT
    read_events.user_id,
    items.item_index,
    read_events.ts,
    read_events.source,
    read_events.row_number,
    CASE WHEN :detailed THEN read_events.event_type END AS event_type,
    CASE WHEN :detailed AND NOT isnan(read_events.weight) THEN read_events.weight END AS weight
FROM read_events
INNER JOIN items ON read_events.item_id = items.item_id
