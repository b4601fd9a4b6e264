-- Makes: the table checked_events, what the suite of that name looks at.
-- From:  events, the days that the ingest wrote, and event_faults; $part, 1 for all users.
-- Grain: one row: counted here once, for one query an expectation would read the events as often.
--        Repeats are those of one user in $part, drawn by hash: all would cost more than the rest.
CREATE OR REPLACE TABLE checked_events AS
WITH faults AS (
    SELECT
        count(*) AS events,
        count_if(user_id_missing) AS user_id_missing,
        count_if(item_id_missing) AS item_id_missing,
        count_if(event_type_missing) AS event_type_missing,
        count_if(ts_missing) AS ts_missing,
        count_if(source_missing) AS source_missing,
        count_if(row_number_missing) AS row_number_missing,
        count_if(user_id_empty) AS user_id_empty,
        count_if(item_id_empty) AS item_id_empty,
        count_if(event_type_empty) AS event_type_empty,
        count_if(user_id_long) AS user_id_long,
        count_if(item_id_long) AS item_id_long,
        count_if(after_night) AS after_night,
        count_if(other_day) AS other_day
    FROM event_faults
),

repeats AS (
    SELECT count(*) - 1 AS times
    FROM events
    WHERE hash(user_id) % $part = 0
    GROUP BY hash(user_id, item_id, event_type, ts, weight)
)

SELECT
    faults.*,
    (SELECT coalesce(sum(repeats.times), 0) FROM repeats)::BIGINT AS repeated
FROM faults
