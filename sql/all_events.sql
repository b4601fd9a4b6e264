-- Makes: the view kept_events, all events.
-- From:  events up to the end of the night.
-- Grain: one event.
CREATE OR REPLACE TEMP VIEW kept_events AS
SELECT
    user_id,
    item_id,
    ts,
    source,
    row_number
FROM events
