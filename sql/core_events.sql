-- Makes: the view kept_events, the events that the k-core filter leaves.
-- From:  events up to the end of the night, core.
-- Grain: one event.
CREATE OR REPLACE TEMP VIEW kept_events AS
SELECT
    events.user_id,
    events.item_id,
    events.ts,
    events.source,
    events.row_number
FROM events
SEMI JOIN core ON events.user_id = core.user_id AND events.item_id = core.item_id
