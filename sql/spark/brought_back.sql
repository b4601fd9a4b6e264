-- Makes: the users of an earlier night's histories who get events back that it left out.
-- From:  judged_events; base, the sequences of the earlier night.
-- Grain: one user.
SELECT DISTINCT judged_events.user_id
FROM judged_events
LEFT SEMI JOIN base ON judged_events.user_id = base.user_id
WHERE judged_events.kept AND NOT judged_events.later
