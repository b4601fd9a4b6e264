-- Makes: the table night_rejects, what goes into quarantine.
-- From:  staged; earlier_quarantine, the nights before; $night.
-- Grain: one rejected row. A row without a time, or of a day behind the night, belongs to the first
-- night that met it.
CREATE OR REPLACE TEMP TABLE night_rejects AS
SELECT
    $night::DATE AS dt,
    s.source,
    s.row_number,
    s.raw,
    s.reason
FROM staged AS s
WHERE
    s.reason IS NOT NULL
    AND NOT (
        (s.ts IS NULL OR NOT s.own)
        AND EXISTS (
            SELECT 1
            FROM earlier_quarantine AS e
            WHERE
                e.source = s.source
                AND e.row_number = s.row_number
                AND e.raw IS NOT DISTINCT FROM s.raw
        )
    )
ORDER BY s.source, s.row_number
