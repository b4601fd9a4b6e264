-- Takes from core the users with fewer than $least events.
DELETE FROM core
WHERE user_id IN (
    SELECT user_id
    FROM core
    GROUP BY user_id
    HAVING sum(n_events) < $least
)
