-- Makes: the types of all events; the number of a type is its place among them, from 1.
-- From:  all_events, those up to the end of the night.
-- Grain: one type, in the order of the names.
SELECT DISTINCT event_type
FROM all_events
ORDER BY event_type
