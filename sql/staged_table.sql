-- Makes: the table staged, the rows of all source files that matter to this night.
-- From:  the type part_name, the names of these files in their order.
-- Grain: one row of a file, an event (reason is null) or a rejected one. own: of a day that the
-- night answers for; the others are of the days behind it, which late events may belong to.
CREATE OR REPLACE TEMP TABLE staged (
    source PART_NAME,
    row_number BIGINT,
    raw VARCHAR,
    user_id VARCHAR,
    item_id VARCHAR,
    event_type VARCHAR,
    ts TIMESTAMPTZ,
    dt DATE,
    weight FLOAT,
    reason VARCHAR,
    own BOOLEAN
)
