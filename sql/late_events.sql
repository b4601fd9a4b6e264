-- Makes: the table late_events, events of days behind the night that came after these were read.
-- From:  staged, left_out_rows, known_events; the variable event_weights; $night.
-- Grain: one event. Without a weight of its own it is known by the rest: its type may have had
-- another weight, or none, when it was read before.
CREATE OR REPLACE TEMP TABLE late_events AS
SELECT
    staged.dt,
    staged.user_id,
    staged.item_id,
    staged.event_type,
    staged.ts,
    staged.weight,
    staged.source,
    staged.row_number,
    $night::DATE AS ingested
FROM staged
ANTI JOIN left_out_rows ON staged.rowid = left_out_rows.staged_row
ANTI JOIN known_events
    ON
        staged.ts = known_events.ts
        AND staged.user_id = known_events.user_id
        AND staged.item_id = known_events.item_id
        AND staged.event_type = known_events.event_type
        AND (
            staged.weight IS NOT DISTINCT FROM known_events.weight
            OR staged.weight IS NULL
            OR staged.weight = getvariable('event_weights')[staged.event_type]
        )
WHERE staged.reason IS NULL AND NOT staged.own
