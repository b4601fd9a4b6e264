-- Makes: the table catalogue_rows, the rows of all parts of the catalogue.
-- From:  nothing.
-- Grain: one row of a part, an item (reason is null) or a rejected one. part: its place among the
--        parts, from 0: of two rows of an item the one of the later part counts.
CREATE OR REPLACE TEMP TABLE catalogue_rows (
    part INTEGER,
    row_number BIGINT,
    item_id VARCHAR,
    title VARCHAR,
    categories VARCHAR[],
    attributes VARCHAR,
    reason VARCHAR
)
