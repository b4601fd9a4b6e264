-- Makes: the table new_night_stats, rows of night_stats.
-- From:  events of the days, known_users, the histories of the last night before, and items; the
--        variables night and bootstrap. Events that a later night brought are left out, so that the
--        figures stay what they were when the night ran.
-- Grain: one day. All but events, last_ts and event_types is null but for the night itself; who and
--        what is new also where nothing is known from before.
CREATE OR REPLACE TEMP TABLE new_night_stats AS
WITH seen AS (
    SELECT
        dt,
        user_id,
        item_id,
        event_type,
        ts
    FROM events
    WHERE ingested <= getvariable('night')
),

types AS (
    SELECT
        dt,
        event_type,
        count(*) AS events,
        max(ts) AS last_ts
    FROM seen
    GROUP BY dt, event_type
),

days AS (
    SELECT
        dt,
        sum(events)::BIGINT AS events,
        max(last_ts) AS last_ts,
        list({ 'event_type': event_type, 'events': events } ORDER BY event_type) AS event_types
    FROM types
    GROUP BY dt
),

users AS (
    SELECT
        user_id,
        count(*) AS events
    FROM seen
    WHERE dt = getvariable('night')
    GROUP BY user_id
),

user_totals AS (
    SELECT
        count(*) AS users,
        max(users.events) AS largest_user_events,
        count_if(known_users.user_id IS NULL) AS new_users
    FROM users
    LEFT JOIN known_users ON users.user_id = known_users.user_id
),

night_items AS (
    SELECT
        item_id,
        count(*) AS events
    FROM seen
    WHERE dt = getvariable('night')
    GROUP BY item_id
),

item_totals AS (
    SELECT
        count(*) AS items,
        max(night_items.events) AS largest_item_events,
        count_if(items.item_id IS NULL) AS new_items
    FROM night_items
    LEFT JOIN items
        ON
            night_items.item_id = items.item_id
            AND items.first_seen < getvariable('night')
)

SELECT
    days.dt,
    days.events,
    days.last_ts,
    days.event_types,
    user_totals.users,
    user_totals.largest_user_events,
    CASE WHEN EXISTS (FROM known_users) THEN user_totals.new_users END AS new_users,
    item_totals.items,
    item_totals.largest_item_events,
    CASE WHEN NOT getvariable('bootstrap') THEN item_totals.new_items END AS new_items
FROM days
LEFT JOIN user_totals ON days.dt = getvariable('night')
LEFT JOIN item_totals ON days.dt = getvariable('night')
