-- Makes: how many users have a history, and of how many events.
-- From:  sequences of the night.
-- Grain: one row.
SELECT
    count(*) AS users,
    sum(n_events) AS events
FROM sequences
