-- Makes: the view events, all events of some users, and the table behind it.
-- From:  all_events, those up to the end of the night; anew, the users.
-- Grain: one event.
CREATE OR REPLACE TEMP TABLE events_of_users_anew AS
SELECT
    all_events.user_id,
    all_events.item_id,
    all_events.ts,
    all_events.source,
    all_events.row_number
FROM all_events
SEMI JOIN anew ON all_events.user_id = anew.user_id;

CREATE OR REPLACE VIEW events AS
SELECT
    user_id,
    item_id,
    ts,
    source,
    row_number
FROM events_of_users_anew
