-- Makes: how many rows of each source file were staged, and what became of them.
-- From:  staged, left_out_rows, late_events, night_rejects.
-- Grain: one source file that has staged rows.
WITH staged_rows AS (
    SELECT
        source,
        count(*) FILTER (WHERE reason IS NULL AND own) AS own_events,
        count(*) FILTER (WHERE reason IS NULL AND NOT own) AS past_events,
        count(*) FILTER (WHERE reason IS NOT NULL) AS staged_rejects
    FROM staged
    GROUP BY source
),

left_out AS (
    SELECT
        staged.source,
        count(*) AS rows_left_out,
        count(*) FILTER (WHERE left_out_rows.why = 'duplicate') AS rows_duplicate,
        count(*) FILTER (WHERE left_out_rows.why = 'repeat') AS rows_repeat,
        count(*) FILTER (WHERE left_out_rows.why = 'over_cap') AS rows_over_cap
    FROM left_out_rows
    INNER JOIN staged ON left_out_rows.staged_row = staged.rowid
    WHERE staged.own
    GROUP BY staged.source
),

late AS (
    SELECT
        source,
        count(*) AS rows_late
    FROM late_events
    GROUP BY source
),

rejects AS (
    SELECT
        source,
        count(*) AS rows_rejected
    FROM night_rejects
    GROUP BY source
)

SELECT
    staged_rows.source,
    staged_rows.own_events - coalesce(left_out.rows_left_out, 0) AS events,
    coalesce(left_out.rows_duplicate, 0) AS duplicates,
    coalesce(left_out.rows_repeat, 0) AS repeats,
    coalesce(left_out.rows_over_cap, 0) AS over_cap,
    coalesce(late.rows_late, 0) AS late,
    coalesce(rejects.rows_rejected, 0) AS rejects,
    -- What other nights have already: not late, not to be rejected twice.
    staged_rows.past_events - coalesce(late.rows_late, 0)
    + staged_rows.staged_rejects - coalesce(rejects.rows_rejected, 0) AS others
FROM staged_rows
LEFT JOIN left_out ON staged_rows.source = left_out.source
LEFT JOIN late ON staged_rows.source = late.source
LEFT JOIN rejects ON staged_rows.source = rejects.source
