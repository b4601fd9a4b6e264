-- Makes: the view event_faults, what is wrong with each event that is checked.
-- From:  events, the days that the ingest wrote; the variables night and max_id_length.
-- Grain: one event. A column that is null is no fault. strlen counts bytes, which is cheap.
CREATE OR REPLACE TEMP VIEW event_faults AS
SELECT
    source,
    row_number,
    user_id IS NULL AS user_id_missing,
    item_id IS NULL AS item_id_missing,
    event_type IS NULL AS event_type_missing,
    ts IS NULL AS ts_missing,
    source IS NULL AS source_missing,
    row_number IS NULL AS row_number_missing,
    user_id = '' AS user_id_empty,
    item_id = '' AS item_id_empty,
    event_type = '' AS event_type_empty,
    strlen(user_id) > getvariable('max_id_length') AS user_id_long,
    strlen(item_id) > getvariable('max_id_length') AS item_id_long,
    ts >= (getvariable('night') + 1)::TIMESTAMPTZ AS after_night,
    (ts < dt::TIMESTAMPTZ OR ts >= (dt + 1)::TIMESTAMPTZ)
    AND ts < (getvariable('night') + 1)::TIMESTAMPTZ AS other_day
FROM events
