-- Makes: the view night_events, the whole content of the days of events that the night writes.
-- From:  staged, left_out_rows, late_events, kept_events; the variable night.
-- Grain: one event. Unsorted, for a day has too many: staged is in the order of files and rows.
CREATE OR REPLACE TEMP VIEW night_events AS
SELECT
    staged.dt,
    staged.user_id,
    staged.item_id,
    staged.event_type,
    staged.ts,
    staged.weight,
    staged.source,
    staged.row_number,
    getvariable('night') AS ingested
FROM staged
ANTI JOIN left_out_rows ON staged.rowid = left_out_rows.staged_row
WHERE staged.reason IS NULL AND staged.own
UNION ALL
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
FROM late_events
UNION ALL
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
FROM kept_events
