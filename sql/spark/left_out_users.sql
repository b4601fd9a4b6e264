-- Makes: how many users are in no history, for all their events are left out.
-- From:  judged_events, core_users; base, the sequences of the night that is added to.
-- Grain: one row.
SELECT count(DISTINCT judged_events.user_id) AS users
FROM judged_events
LEFT ANTI JOIN core_users ON judged_events.user_id = core_users.user_id
LEFT ANTI JOIN base ON judged_events.user_id = base.user_id
