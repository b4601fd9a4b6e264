-- Makes: rows of staged, from one source file.
-- From:  classified_rows; $source, the file's name.
-- Grain: one row of the file.
INSERT INTO staged
SELECT
    $source AS source_name,
    row_number,
    -- Only a rejected row is kept as it was read.
    CASE WHEN reason IS NOT NULL THEN raw END AS raw,
    user_id,
    item_id,
    event_type,
    ts,
    dt,
    weight,
    reason,
    coalesce(ts >= getvariable('first_ts'), TRUE) AS own
FROM classified_rows
WHERE class NOT IN ('other', 'filtered')
