-- Makes: the table known_events, what other nights' runs brought of the days that this one reads.
-- From:  earlier_events, the events of these days; $night.
-- Grain: one event.
CREATE OR REPLACE TEMP TABLE known_events AS
SELECT
    dt,
    user_id,
    item_id,
    event_type,
    ts,
    weight,
    source,
    row_number,
    ingested
FROM earlier_events
WHERE ingested <> $night
