-- Makes: the table users, the users of the events with numbers from 0 in order of user_id.
-- From:  events that are read; left_out_events of the night that they are added to.
-- Grain: one user.
CREATE OR REPLACE TEMP TABLE users AS
SELECT
    user_id,
    (row_number() OVER (ORDER BY user_id) - 1)::INTEGER AS user_number
FROM (
    SELECT user_id FROM events
    UNION
    SELECT user_id FROM left_out_events
) AS seen
