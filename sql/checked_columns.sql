-- Makes: the table checked_columns, what the suite of that name looks at.
-- From:  table_columns, the columns as the lake has them and as tasks/lake/tables.py does.
-- Grain: one column of a table. Null says that they agree.
CREATE OR REPLACE TABLE checked_columns AS
SELECT
    CASE
        WHEN expected IS NULL THEN column_name || ' is unknown'
        WHEN found != expected THEN column_name || ' is ' || found || ', not ' || expected
    END AS disagreement
FROM table_columns
