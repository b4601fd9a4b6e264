-- Makes: how many rows of each source file were staged, and how many of them are written.
-- From:  staged, night_events, night_rejects.
-- Grain: one source file that has staged rows.
SELECT
    source,
    sum(staged_events)::BIGINT AS staged_events,
    sum(staged_rejects)::BIGINT AS staged_rejects,
    sum(events)::BIGINT AS events,
    sum(rejects)::BIGINT AS rejects
FROM (
    SELECT
        source,
        (reason IS NULL)::INTEGER AS staged_events,
        (reason IS NOT NULL)::INTEGER AS staged_rejects,
        0 AS events,
        0 AS rejects
    FROM staged
    UNION ALL
    SELECT
        source,
        0 AS staged_events,
        0 AS staged_rejects,
        1 AS events,
        0 AS rejects
    FROM night_events
    UNION ALL
    SELECT
        source,
        0 AS staged_events,
        0 AS staged_rejects,
        0 AS events,
        1 AS rejects
    FROM night_rejects
) AS marked_rows
GROUP BY source
