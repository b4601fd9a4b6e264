"""The tables of the lake: their grain, columns and partitions.

`dt` is the night (a UTC date) that wrote a row; for `events` it is the date of the event itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """A Delta table: its folder's name in the lake, its columns and its partition columns.

    many_valued: columns with a value of their own in most rows. A Parquet dictionary of them would
    be made, found too large and left again.

    before: what a column that came later holds in rows that were written before it, as SQL over the
    other columns. Of one that is not named here it is null.
    """

    name: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ("dt",)
    many_valued: tuple[str, ...] = ()
    before: Mapping[str, str] = field(default_factory=dict, hash=False)


DT = ("dt", pa.date32())
TIME = pa.timestamp("us", tz="UTC")

# One event. `source` and `row_number` say where it was read, and break ties of `ts`.
EVENTS = Table(
    "events",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("event_type", pa.string()),
            ("ts", TIME),
            ("weight", pa.float32()),  # null: the source has none
            ("source", pa.string()),  # path below source.path
            ("row_number", pa.int64()),  # line where it begins (text) or row (Parquet), from 1
            ("ingested", pa.date32()),  # the night whose run brought it; after dt: it came late
        ]
    ),
    many_valued=("user_id", "ts", "row_number"),
    before={"ingested": "dt"},
)

# One row of a source that is no event.
QUARANTINE = Table(
    "quarantine",
    pa.schema(
        [
            DT,
            ("source", pa.string()),
            ("row_number", pa.int64()),
            ("raw", pa.string()),  # the line as read; of Parquet and CSV its columns as JSON
            ("reason", pa.string()),
        ]
    ),
)

# One part of the source, say a file, in one night. rows_read is the sum of the counts after it.
INGESTS = Table(
    "ingests",
    pa.schema(
        [
            DT,
            ("source", pa.string()),
            ("rows_read", pa.int64()),
            ("rows_events", pa.int64()),
            ("rows_quarantined", pa.int64()),
            ("rows_duplicate", pa.int64()),
            ("rows_late", pa.int64()),  # events of nights before, which those did not see
            ("rows_repeat", pa.int64()),  # above ingest.max_repeats
            ("rows_busy", pa.int64()),  # above ingest.max_user_events
            ("rows_filtered", pa.int64()),  # of a type that source.event_types leaves out
            ("rows_other_nights", pa.int64()),
            ("bootstrap", pa.bool_()),  # all rows before the end of the night, not the night's only
        ]
    ),
    # What was not counted yet did not happen yet.
    before=dict.fromkeys(("rows_late", "rows_repeat", "rows_busy", "rows_filtered"), "0"),
)

# One Delta table that events come from in one night: which of its versions the night read.
SOURCE_VERSIONS = Table(
    "source_versions",
    pa.schema(
        [
            DT,
            ("source", pa.string()),
            ("table_id", pa.string()),  # which Delta gave it when it was made
            ("version", pa.int64()),
            ("after_version", pa.int64()),  # read by the earlier night; null: every file was new
            ("since", pa.date32()),  # the first day that the earlier night did not read
        ]
    ),
)

# What was counted of one night's events when they were checked; later nights are held against it.
# The first night of a lake leaves a row for each of the days before it, too.
NIGHT_STATS = Table(
    "night_stats",
    pa.schema(
        [
            DT,
            ("events", pa.int64()),
            ("last_ts", TIME),
            (
                "event_types",
                pa.list_(pa.struct([("event_type", pa.string()), ("events", pa.int64())])),
            ),
            ("users", pa.int64()),  # null, as all that follows: a day before the first night
            ("largest_user_events", pa.int64()),
            ("new_users", pa.int64()),  # without a history; null: no night before has histories
            ("items", pa.int64()),
            ("largest_item_events", pa.int64()),
            ("new_items", pa.int64()),  # first seen this night; null: the first night of a lake
        ]
    ),
)

# One item ever seen; rows are only ever added.
ITEMS = Table(
    "items",
    pa.schema(
        [
            ("item_id", pa.string()),
            ("item_index", pa.int32()),  # 1..., never reused; 0 is padding
            ("first_seen", pa.date32()),  # date of its first event
        ]
    ),
    partition_by=(),
)

# One user a night: the history up to the end of the night.
SEQUENCES = Table(
    "sequences",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("items", pa.list_(pa.int32())),  # item_index, oldest first, the last ones only
            ("n_events", pa.int32()),  # of the whole history
            ("last_ts", TIME),
        ]
    ),
    many_valued=("user_id",),
)

# What a night's sequences were made from, as it was then: while both fingerprints hold, building
# them anew would give the same rows.
SEQUENCE_INPUTS = Table(
    "sequence_inputs",
    pa.schema(
        [
            DT,
            ("inputs", pa.string()),  # of the settings, the vocabulary and the files of events
            ("files", pa.string()),  # of the files of the night's sequences and left_out_events
            ("core_items", pa.list_(pa.int32())),  # with enough; null: no left_out_events are kept
        ]
    ),
)

# One event up to the end of a night that its sequences leave out as of a user or an item that has
# too few (`sequences.min_user_events`, `sequences.min_item_events`). Not kept where they are most.
LEFT_OUT_EVENTS = Table(
    "left_out_events",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("item_index", pa.int32()),
            ("ts", TIME),
            ("position", pa.int64()),  # ascends by user, and with the events of each
        ]
    ),
    many_valued=("ts", "position"),
)

# One trained model.
MODELS = Table(
    "models",
    pa.schema(
        [
            DT,
            ("model_version", pa.string()),
            ("path", pa.string()),  # below lake.root
            ("promoted", pa.bool_()),
            ("parent_version", pa.string()),  # the model before it, whose intents it carries on
            ("settings_fingerprint", pa.string()),
            ("data_fingerprint", pa.string()),
        ]
    ),
)

# One night from which on a person has chosen the model that labels, until a later promotion.
CHOICES = Table(
    "choices",
    pa.schema(
        [
            DT,
            ("model_version", pa.string()),  # of this night or an earlier one
            ("next_intent_id", pa.int32()),  # above every id that was in use when it was chosen
        ]
    ),
)

# One number about one model.
METRICS = Table(
    "metrics",
    pa.schema(
        [
            DT,
            ("model_version", pa.string()),
            ("split", pa.string()),
            ("slice", pa.string()),
            ("metric", pa.string()),
            ("value", pa.float64()),
        ]
    ),
)

# One user a night.
INTENT_LABELS = Table(
    "intent_labels",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("intent_id", pa.int32()),  # null: no item of the history is known to the model
            ("confidence", pa.float32()),
            ("runner_up_id", pa.int32()),
            ("runner_up_confidence", pa.float32()),
            ("n_events", pa.int32()),
            ("last_ts", TIME),
            ("model_version", pa.string()),
        ]
    ),
    many_valued=("user_id",),
)

# One intent a night.
INTENT_PROFILES = Table(
    "intent_profiles",
    pa.schema(
        [
            DT,
            ("intent_id", pa.int32()),
            ("users", pa.int64()),
            ("share", pa.float64()),
            (
                "top_items",
                pa.list_(pa.struct([("item_id", pa.string()), ("lift", pa.float32())])),
            ),
            ("born", pa.date32()),  # night of the first model that had it
            ("status", pa.string()),  # active; empty: no users; retired: this night, for good
            # Where its users were the night the model was trained: intents of the model before.
            (
                "came_from",
                pa.list_(pa.struct([("intent_id", pa.int32()), ("share", pa.float32())])),
            ),
        ]
    ),
)

# The last run of one step of one night.
STEPS = Table(
    "steps",
    pa.schema(
        [
            DT,
            ("step", pa.string()),
            ("started_at", TIME),
            ("seconds", pa.float64()),
            ("peak_mb", pa.float64()),
            ("summary", pa.string()),  # JSON
            # What it stood on when it began; null: it ran before this was recorded.
            (
                "inputs",
                pa.list_(
                    pa.struct(
                        [
                            ("input", pa.string()),  # what it is: `tasks.registry.inputs`
                            ("night", pa.date32()),  # of its partition or model
                            ("files", pa.string()),  # stands for the names of the files
                            ("digest", pa.string()),  # of the rows; or a version, a number
                        ]
                    )
                ),
            ),
        ]
    ),
    partition_by=("dt", "step"),
)

# One partition that upkeep has taken out, and what stands for the rows that it had: what was made
# from it is not stale because it is gone.
TAKEN_OUT = Table(
    "taken_out",
    pa.schema(
        [
            DT,
            ("input", pa.string()),  # as in steps.inputs
            ("digest", pa.string()),
            ("taken_out_at", TIME),
        ]
    ),
    partition_by=(),
)

# One published state of one night's labels. A night that is published again with the same labels
# has no new one.
LABEL_REVISIONS = Table(
    "label_revisions",
    pa.schema(
        [
            DT,
            ("revision", pa.int32()),  # 1, 2, ... of the night
            ("published_at", TIME),
            ("run", pa.string()),  # Airflow's run id, or "command line"
            ("why", pa.string()),  # a word of tasks.registry.revisions.WHY
            ("because", pa.string()),  # the same in a sentence with names and dates
            ("model_version", pa.string()),  # null: the night has labels of several models
            ("labels", pa.int64()),
            # Against the revision before; null: its labels are not in the lake any more.
            ("changed", pa.int64()),  # users with another intent
            ("added", pa.int64()),  # users who had no label
            ("removed", pa.int64()),  # users who have none any more
            ("digest", pa.string()),  # of all columns of the labels
            ("files", pa.list_(pa.string())),  # of the partition of intent_labels, for comparing
            ("stood_on", pa.string()),  # JSON: what the labels were made from
        ]
    ),
)

# One person whose events are left out from the moment they were forgotten. The id itself is not
# kept; `salt` is the same in all rows of a lake.
FORGOTTEN = Table(
    "forgotten",
    pa.schema(
        [
            ("user_hash", pa.string()),  # SHA-256 of the salt and the id, hexadecimal
            ("salt", pa.string()),
            ("forgotten_at", TIME),
        ]
    ),
    partition_by=(),
)

TABLES = {
    table.name: table
    for table in (
        EVENTS,
        QUARANTINE,
        INGESTS,
        SOURCE_VERSIONS,
        NIGHT_STATS,
        ITEMS,
        SEQUENCES,
        SEQUENCE_INPUTS,
        LEFT_OUT_EVENTS,
        MODELS,
        CHOICES,
        METRICS,
        INTENT_LABELS,
        INTENT_PROFILES,
        STEPS,
        TAKEN_OUT,
        LABEL_REVISIONS,
        FORGOTTEN,
    )
}
