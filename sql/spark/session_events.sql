-- Makes: the last event of each item in each session.
-- From:  numbered_events; :session_minutes.
-- Grain: one event, with type and weight of the one of most weight of the item in the session; an
--        event without one weighs 1. A session is a user's events of one day (UTC), none of them
--        more than :session_minutes after the one before.
WITH gaps AS (
    SELECT
        *,
        lag(ts) OVER (PARTITION BY user_id ORDER BY ts, source, row_number) AS ts_before
    FROM numbered_events
),

numbered AS (
    SELECT
        *,
        sum(
            CASE
                WHEN
                    to_date(ts) = to_date(ts_before)
                    AND unix_micros(ts) - unix_micros(ts_before) <= :session_minutes * 60000000D
                    THEN 0
                ELSE 1
            END
        ) OVER (
            PARTITION BY user_id
            ORDER BY ts, source, row_number
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS session_number
    FROM gaps
),

from_the_end AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY user_id, session_number, item_index
            ORDER BY ts DESC, source DESC, row_number DESC
        ) AS place,
        first_value(struct(event_type, weight)) OVER (
            PARTITION BY user_id, session_number, item_index
            ORDER BY coalesce(weight, 1F) DESC, ts DESC, source DESC, row_number DESC
        ) AS strongest
    FROM numbered
)

SELECT
    user_id,
    item_index,
    ts,
    source,
    row_number,
    strongest.event_type,
    strongest.weight
FROM from_the_end
WHERE place = 1
