-- Makes: the table users, the users of the events with numbers from 0 in order of user_id.
-- From:  events up to the end of the night.
-- Grain: one user.
CREATE OR REPLACE TEMP TABLE users AS
SELECT
    user_id,
    (row_number() OVER (ORDER BY user_id) - 1)::INTEGER AS user_number
FROM (SELECT DISTINCT user_id FROM events) AS seen
