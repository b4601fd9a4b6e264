-- Makes: the table checked_night, what the suite of that name looks at.
-- From:  night_stats of the night and the 28 before it; the variables night, bootstrap, has_clock
--        and min_compared.
-- Grain: one row. Null, which no expectation fails on, is what cannot be told: of fewer events than
--        min_compared, from fewer than three nights before, on the first night of a lake; and the
--        volume beside the 7 and the 28 nights once three of the same weekday are known, for a
--        weekly rhythm is no fault. volume is beside those of the weekday, until then the 28.
CREATE OR REPLACE TABLE checked_night AS
WITH tonight AS (
    SELECT
        *,
        events >= getvariable('min_compared') AS enough
    FROM night_stats
    WHERE dt = getvariable('night')
),

earlier AS (
    SELECT
        dt,
        events,
        event_types,
        dt >= getvariable('night') - 7 AS last_week,
        dayofweek(dt) = dayofweek(getvariable('night')) AS same_weekday
    FROM night_stats
    WHERE dt < getvariable('night') AND NOT getvariable('bootstrap')
),

usual AS (
    SELECT
        count(*) >= 3 AS known,
        CASE WHEN count(*) >= 3 THEN median(events) END AS of_28,
        CASE WHEN count_if(last_week) >= 3 THEN median(events) FILTER (WHERE last_week) END AS of_7,
        CASE
            WHEN count_if(same_weekday) >= 3 THEN median(events) FILTER (WHERE same_weekday)
        END AS of_weekday
    FROM earlier
),

types AS (
    SELECT unnest(event_types, recursive := true)
    FROM tonight
),

earlier_types AS (
    SELECT unnest(event_types, recursive := true)
    FROM earlier
    WHERE last_week
),

mix AS (
    SELECT
        event_type,
        events / sum(events) OVER () AS share
    FROM types
),

earlier_mix AS (
    SELECT
        event_type,
        sum(events) / sum(sum(events)) OVER () AS share
    FROM earlier_types
    GROUP BY event_type
),

shift AS (
    SELECT sum(abs(coalesce(mix.share, 0) - coalesce(earlier_mix.share, 0))) / 2 AS distance
    FROM mix
    FULL JOIN earlier_mix ON mix.event_type IS NOT DISTINCT FROM earlier_mix.event_type
),

compared AS (
    SELECT
        tonight.*,
        usual.*,
        shift.distance,
        coalesce(usual.of_weekday, usual.of_28) AS of_such,
        usual.of_weekday IS null AS any_day,
        -- A night may be too small for its own shares and yet far too small for what is usual.
        greatest(tonight.events, of_such) >= getvariable('min_compared') AS weighty
    FROM tonight
    CROSS JOIN usual
    CROSS JOIN shift
)

SELECT
    CASE WHEN weighty THEN round(events / of_such, 3) END AS volume,
    CASE WHEN weighty AND any_day THEN round(events / of_7, 3) END AS volume_7,
    CASE WHEN weighty AND any_day THEN round(events / of_28, 3) END AS volume_28,
    CASE WHEN weighty THEN round(events / of_weekday, 3) END AS volume_weekday,
    CASE
        WHEN enough AND getvariable('has_clock')
            THEN
                round(
                    epoch((getvariable('night') + 1)::TIMESTAMPTZ - last_ts) / 3600, 1
                )
    END AS silent_hours,
    CASE WHEN enough AND known THEN round(new_users / users, 3) END AS new_user_share,
    CASE WHEN enough AND known THEN round(new_items / items, 3) END AS new_item_share,
    CASE WHEN enough THEN round(largest_user_events / events, 3) END AS largest_user_share,
    CASE WHEN enough THEN round(largest_item_events / events, 3) END AS largest_item_share,
    CASE WHEN enough AND of_7 IS NOT null THEN round(distance, 3) END AS type_shift
FROM compared
