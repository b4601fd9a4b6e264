-- Makes: the table event_sources, the files of the events with numbers from 0 in order of name.
-- From:  read_events, the events that are read.
-- Grain: one file.
CREATE OR REPLACE TEMP TABLE event_sources AS
SELECT
    source,
    (row_number() OVER (ORDER BY source) - 1)::BIGINT AS source_number
FROM (SELECT DISTINCT source FROM read_events) AS seen
