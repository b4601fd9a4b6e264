-- Makes: what tells staged events apart at a glance.
-- From:  staged; the variable day_shift, which leaves of a user's day a number that can be counted.
-- Grain: one event. Others may share either number; equal events, and a user's of a day, always do.
SELECT
    hash(user_id, item_id, event_type, ts, weight) AS row_hash,
    (hash(user_id, dt) >> getvariable('day_shift'))::UINTEGER AS user_day
FROM staged
WHERE reason IS NULL
