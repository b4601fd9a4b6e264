-- Makes: the table event_sources, the files of the events with numbers from 0 in order of name.
-- From:  events up to the end of the night.
-- Grain: one file.
CREATE OR REPLACE TEMP TABLE event_sources AS
SELECT
    source,
    (row_number() OVER (ORDER BY source) - 1)::BIGINT AS source_number
FROM (SELECT DISTINCT source FROM events) AS seen
