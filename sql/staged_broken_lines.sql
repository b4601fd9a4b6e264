-- Makes: rows of staged, from the lines of one text file that DuckDB could not parse.
-- From:  reject_errors; rejected_lines, where these are in the file; $source, the file's name.
-- Grain: one line; each scan of the file has reported it anew.
INSERT INTO staged
SELECT
    $source AS source_name,
    rejected_lines.at AS row_number,
    trim(any_value(reject_errors.csv_line), chr(10) || chr(13)) AS raw,
    NULL AS user_id,
    NULL AS item_id,
    NULL AS event_type,
    NULL AS ts,
    NULL AS dt,
    NULL AS weight,
    'line cannot be parsed: ' || min(reject_errors.error_message) AS reason,
    TRUE AS own
FROM reject_errors
INNER JOIN rejected_lines ON reject_errors.line = rejected_lines.line
GROUP BY rejected_lines.at
