-- Makes: the table checked_sequences, what the suite of that name looks at.
-- From:  sequences of the night.
-- Grain: one user. Times are UTC without saying so: results with a zone would need pytz.
CREATE OR REPLACE TABLE checked_sequences AS
SELECT
    user_id,
    len(items) AS n_items,
    n_events,
    len(items) - list_count(items) AS n_missing,
    list_min(items) AS smallest_index,
    list_max(items) AS largest_index,
    timezone('UTC', last_ts) AS last_ts
FROM sequences
