-- Makes: the view checked_ingest, what the suite of that name looks at.
-- From:  ingests of the night, events that it wrote.
-- Grain: one row. Shares are of the rows that belong to the night.
CREATE OR REPLACE VIEW checked_ingest AS
WITH repeats AS (
    SELECT count(*) - 1 AS times
    FROM events
    GROUP BY user_id, item_id, event_type, ts, weight
)

SELECT
    sum(rows_quarantined) / sum(rows_read - rows_other_nights - rows_filtered) AS quarantined_share,
    sum(rows_duplicate) / sum(rows_read - rows_other_nights - rows_filtered) AS duplicate_share,
    (SELECT sum(repeats.times) FROM repeats)::BIGINT AS repeated_events
FROM ingests
