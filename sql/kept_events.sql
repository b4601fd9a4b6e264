-- Makes: the table kept_events, what stays of known_events in the days that are written.
-- From:  known_events, staged, gone_events; $late_days, the days behind the night that are written;
--        $first, the first day that the night answers for; $sources, the parts that are there as a
--        whole.
-- Grain: one event. A day behind the night keeps all that its source still has. Of its own days the
-- night keeps what a later one brought from a file that is gone by now, or from a table after the
-- version that it reads: nothing else would bring it back.
CREATE OR REPLACE TEMP TABLE kept_events AS
SELECT
    known_events.dt,
    known_events.user_id,
    known_events.item_id,
    known_events.event_type,
    known_events.ts,
    known_events.weight,
    known_events.source,
    known_events.row_number,
    known_events.ingested
FROM known_events
WHERE
    (
        list_contains($late_days, known_events.dt)
        AND NOT EXISTS (
            SELECT 1
            FROM gone_events
            WHERE
                gone_events.dt = known_events.dt
                AND gone_events.source = known_events.source
                AND gone_events.row_number = known_events.row_number
                AND gone_events.ingested = known_events.ingested
        )
    )
    OR (
        known_events.dt >= $first
        AND NOT list_contains($sources, known_events.source)
        AND NOT EXISTS (
            SELECT 1
            FROM staged
            WHERE
                staged.ts = known_events.ts
                AND staged.user_id = known_events.user_id
                AND staged.item_id = known_events.item_id
                AND staged.event_type = known_events.event_type
                AND (
                    staged.weight IS NOT DISTINCT FROM known_events.weight
                    OR staged.weight IS NULL
                    OR staged.weight = getvariable('event_weights')[staged.event_type]
                )
        )
    )
