-- Makes: how many usable rows of a source file are of days before the night.
-- From:  classified_rows; the variable first_ts.
-- Grain: one day.
SELECT
    ts::DATE AS day,
    count(*) AS events
FROM classified_rows
WHERE class = 'other' AND reason IS NULL AND ts < getvariable('first_ts')
GROUP BY ts::DATE
ORDER BY ts::DATE
