-- Makes: the events among which a night looks for its core.
-- From:  left_out_events of the night that it adds to; counted_events, those since then.
-- Grain: one event; later: it came since then. Ordered by ts, source and row_number the events of a
--        user are in the order of a history.
SELECT
    user_id,
    item_index,
    ts,
    '' AS source,
    position AS row_number,
    event_type,
    weight,
    FALSE AS later
FROM left_out_events
UNION ALL
SELECT
    user_id,
    item_index,
    ts,
    source,
    row_number,
    event_type,
    weight,
    TRUE AS later
FROM counted_events
