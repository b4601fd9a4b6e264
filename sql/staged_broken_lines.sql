-- Makes: rows of staged, from the lines of one text file that DuckDB could not parse.
-- From:  reject_errors; $source, the file's name.
-- Grain: one line; each scan of the file has reported it anew.
INSERT INTO staged
SELECT
    $source AS source_name,
    line AS row_number,
    any_value(csv_line) AS raw,
    NULL AS user_id,
    NULL AS item_id,
    NULL AS event_type,
    NULL AS ts,
    NULL AS weight,
    'line cannot be parsed: ' || min(error_message) AS reason
FROM reject_errors
GROUP BY line
