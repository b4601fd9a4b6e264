-- Makes: a night's partition of left_out_events.
-- From:  placed_events, the events that are left out; place, a number that ascends by user and
--        within a user by time: in its upper bits that of a part, in its lower 33 that of the row;
--        :night.
-- Grain: one event. Positions are all numbers from 0.
WITH parts AS (
    SELECT
        shiftright(place, 33) AS part,
        count(*) AS n_events
    FROM placed_events
    GROUP BY shiftright(place, 33)
),

starts AS (
    SELECT
        part,
        sum(n_events) OVER (ORDER BY part) - n_events AS first_position
    FROM parts
)

SELECT
    :night AS dt,
    placed_events.user_id,
    placed_events.item_index,
    placed_events.ts,
    starts.first_position + (placed_events.place & 8589934591) AS position,
    placed_events.event_type,
    placed_events.weight
FROM placed_events
INNER JOIN starts ON shiftright(placed_events.place, 33) = starts.part
