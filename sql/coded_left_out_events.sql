-- Makes: the events that an earlier night left out, with numbers in place of all text.
-- From:  left_out_events of the earlier night, users.
-- Grain: one event, user by user and in the order of a history.
SELECT
    users.user_number,
    left_out_events.item_index,
    epoch_us(left_out_events.ts) AS ts_us
FROM left_out_events
INNER JOIN users ON left_out_events.user_id = users.user_id
ORDER BY left_out_events.position
