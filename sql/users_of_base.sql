-- Makes: the numbers of the users who have a history in an earlier night's sequences.
-- From:  users; base, the sequences of the earlier night.
-- Grain: one user.
SELECT users.user_number
FROM users
SEMI JOIN base ON users.user_id = base.user_id
