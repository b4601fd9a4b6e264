-- Makes: the events that histories are made of: of the users in brought_back all they have in the
--        core, of others those that came into it.
-- From:  judged_events, brought_back; counted_events, all events of the users in brought_back;
--        night_core_items, all items in the core.
-- Grain: one event.
SELECT
    judged_events.user_id,
    judged_events.item_index,
    judged_events.ts,
    judged_events.source,
    judged_events.row_number,
    judged_events.event_type,
    judged_events.weight
FROM judged_events
LEFT ANTI JOIN brought_back ON judged_events.user_id = brought_back.user_id
WHERE judged_events.kept
UNION ALL
SELECT
    counted_events.user_id,
    counted_events.item_index,
    counted_events.ts,
    counted_events.source,
    counted_events.row_number,
    counted_events.event_type,
    counted_events.weight
FROM counted_events
LEFT SEMI JOIN night_core_items ON counted_events.item_index = night_core_items.item_index
