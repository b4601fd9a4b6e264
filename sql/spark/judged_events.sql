-- Makes: the events with what is found of them: whether they are in the core.
-- From:  candidate_events, core_users, core_items.
-- Grain: one event; kept: it is in the core.
SELECT
    candidate_events.user_id,
    candidate_events.item_index,
    candidate_events.ts,
    candidate_events.source,
    candidate_events.row_number,
    candidate_events.event_type,
    candidate_events.weight,
    candidate_events.later,
    core_users.user_id IS NOT NULL AND core_items.item_index IS NOT NULL AS kept
FROM candidate_events
LEFT JOIN core_users ON candidate_events.user_id = core_users.user_id
LEFT JOIN core_items ON candidate_events.item_index = core_items.item_index
