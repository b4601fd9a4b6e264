-- Makes: the table kept_rejects, what stays in quarantine when the first night runs again.
-- From:  night_quarantine, what it rejected before; $sources, its files that are gone by now.
-- Grain: one rejected row.
CREATE OR REPLACE TEMP TABLE kept_rejects AS
SELECT
    dt,
    source,
    row_number,
    raw,
    reason
FROM night_quarantine
WHERE list_contains($sources, source)
