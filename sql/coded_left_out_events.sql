-- Makes: the events that an earlier night left out, with numbers in place of all text.
-- From:  left_out_events of the earlier night, users; the variable type_names (null: none).
-- Grain: one event, user by user and in the order of a history.
SELECT
    users.user_number,
    left_out_events.item_index,
    epoch_us(left_out_events.ts) AS ts_us,
    list_position(getvariable('type_names'), left_out_events.event_type) AS type_number,
    left_out_events.weight
FROM left_out_events
INNER JOIN users ON left_out_events.user_id = users.user_id
ORDER BY left_out_events.position
