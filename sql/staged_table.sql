-- Makes: the table staged, the rows of all source files that matter to this night.
-- Grain: one row of a file, an event (reason is null) or a rejected one.
CREATE OR REPLACE TEMP TABLE staged (
    source VARCHAR,
    row_number BIGINT,
    raw VARCHAR,
    user_id VARCHAR,
    item_id VARCHAR,
    event_type VARCHAR,
    ts TIMESTAMPTZ,
    weight FLOAT,
    reason VARCHAR
)
