-- Makes: the table checked_ingest, what the suite of that name looks at.
-- From:  ingests of the night.
-- Grain: one row. Shares are of the rows that belong to the night.
CREATE OR REPLACE TABLE checked_ingest AS
SELECT
    sum(rows_quarantined) / sum(rows_read - rows_other_nights - rows_filtered) AS quarantined_share,
    sum(rows_duplicate) / sum(rows_read - rows_other_nights - rows_filtered) AS duplicate_share
FROM ingests
