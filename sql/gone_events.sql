-- Makes: the table gone_events, events of days behind the night that their source no longer has.
-- From:  known_events, staged; the variables event_weights and night; $sources, the parts that have
--        all rows of the days that the night reads.
-- Grain: one event.
CREATE OR REPLACE TEMP TABLE gone_events AS
SELECT
    known_events.dt,
    known_events.source,
    known_events.row_number,
    known_events.ingested
FROM known_events
ANTI JOIN staged
    ON
        known_events.ts = staged.ts
        AND known_events.user_id = staged.user_id
        AND known_events.item_id = staged.item_id
        AND known_events.event_type = staged.event_type
        AND (
            known_events.weight IS NOT DISTINCT FROM staged.weight
            OR staged.weight IS NULL
            OR staged.weight = getvariable('event_weights')[staged.event_type]
        )
WHERE
    known_events.dt < getvariable('night')
    AND list_contains($sources, known_events.source)
