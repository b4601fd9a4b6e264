-- Makes: the table checked_catalogue, what the suite of that name looks at.
-- From:  catalogue_reads of the night and those before it; steps, which says of which of them the
--        check has passed; the variable night.
-- Grain: one row. Null, which no expectation fails on, is what cannot be told: without a catalogue,
--        or where none before it has passed its check.
CREATE OR REPLACE TABLE checked_catalogue AS
WITH tonight AS (
    SELECT *
    FROM catalogue_reads
    WHERE dt = getvariable('night')
),

passed AS (
    SELECT catalogue_reads.items
    FROM catalogue_reads
    INNER JOIN steps ON catalogue_reads.dt = steps.dt
    WHERE catalogue_reads.dt < getvariable('night') AND steps.step = 'check-events'
    ORDER BY catalogue_reads.dt DESC
    LIMIT 1
)

SELECT
    any_value(tonight.items / nullif((SELECT passed.items FROM passed), 0)) AS catalogue_size,
    any_value(tonight.items_without_title / nullif(tonight.night_items, 0)) AS untitled_share,
    any_value(tonight.rows_rejected / nullif(tonight.rows_read, 0)) AS rejected_share
FROM tonight
