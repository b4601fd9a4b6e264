-- Makes: the lines of a CSV file at which no row begins.
-- From:  file_lines; $quote, the sign that encloses values with line ends in them (or nothing).
-- Grain: one line that is blank, or goes on within quotes.
WITH counted AS (
    SELECT
        row_number() OVER () AS line_number,
        line IS NULL AS blank,
        -- Two quotes within a value cancel out: an odd number opens or ends an enclosed value.
        coalesce((len(line) - len(replace(line, $quote, ''))) % 2 = 1, FALSE) AS turns
    FROM file_lines
),

noted AS MATERIALIZED (
    SELECT *
    FROM counted
    WHERE blank OR turns
),

turns AS (
    SELECT
        line_number,
        row_number() OVER (ORDER BY line_number) % 2 = 1 AS opens,
        lead(line_number) OVER (ORDER BY line_number) AS last_line
    FROM noted
    WHERE turns
),

enclosed AS (
    SELECT unnest(range(line_number + 1, last_line + 1)) AS line_number
    FROM turns
    WHERE opens AND last_line IS NOT NULL
)

SELECT
    line_number,
    FALSE AS blank
FROM enclosed
UNION ALL
SELECT
    noted.line_number,
    TRUE AS blank
FROM noted
ANTI JOIN enclosed ON noted.line_number = enclosed.line_number
WHERE noted.blank
ORDER BY line_number
