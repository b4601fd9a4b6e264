-- Makes: all events of some users.
-- From:  all_events, those up to the end of the night; brought_back, the users.
-- Grain: one event.
SELECT
    all_events.user_id,
    all_events.item_id,
    all_events.ts,
    all_events.event_type,
    all_events.weight,
    all_events.source,
    all_events.row_number
FROM all_events
LEFT SEMI JOIN brought_back ON all_events.user_id = brought_back.user_id
