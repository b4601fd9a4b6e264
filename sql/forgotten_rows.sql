-- Makes: the table forgotten_rows, the rows of staged that are of people who were forgotten.
-- From:  staged; forgotten; $salt.
-- Grain: one row of staged. Of a rejected row without a user, each word is held against the hashes.
CREATE OR REPLACE TEMP TABLE forgotten_rows AS
WITH users AS (
    SELECT
        user_id,
        sha256($salt || user_id) AS user_hash
    FROM staged
    GROUP BY user_id
),

forgotten_users AS (
    SELECT users.user_id
    FROM users
    SEMI JOIN forgotten ON users.user_hash = forgotten.user_hash
),

words AS (
    SELECT
        rowid AS staged_row,
        source,
        unnest(regexp_split_to_array(raw, '[\s,;|":{}\[\]]+')) AS word
    FROM staged
    WHERE user_id IS NULL AND raw IS NOT NULL
),

hashed_words AS (
    SELECT
        staged_row,
        source,
        sha256($salt || word) AS user_hash
    FROM words
)

SELECT
    staged.rowid AS staged_row,
    staged.source
FROM staged
SEMI JOIN forgotten_users ON staged.user_id = forgotten_users.user_id
UNION
SELECT
    hashed_words.staged_row,
    hashed_words.source
FROM hashed_words
SEMI JOIN forgotten ON hashed_words.user_hash = forgotten.user_hash
