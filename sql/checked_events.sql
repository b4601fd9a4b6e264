-- Makes: the view checked_events, what the suite of that name looks at.
-- From:  events, the nights that the ingest wrote.
-- Grain: one event. Times are UTC without saying so: results with a zone would need pytz.
CREATE OR REPLACE VIEW checked_events AS
SELECT
    dt,
    user_id,
    item_id,
    event_type,
    timezone('UTC', ts) AS ts,
    weight,
    source,
    row_number
FROM events
