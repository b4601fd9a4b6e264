"""The tables of the lake: what one row is, the columns with their meanings, and the partitions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """A Delta table: its folder's name in the lake, its columns and its partition columns.

    many_valued: columns with a value of their own in most rows. A Parquet dictionary of them would
    be made, found too large and left again.

    by_user: rows are sorted by user. Files keep statistics for few rows each, so that one user is
    found fast.

    before: what a column that came later holds in rows that were written before it, as SQL over the
    other columns. Of one that is not named here it is null.

    row: what one row is. meanings: what each column holds, for people who read the table.
    """

    name: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ("dt",)
    many_valued: tuple[str, ...] = ()
    by_user: bool = False
    before: Mapping[str, str] = field(default_factory=dict, hash=False)
    row: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict, hash=False)


DT = ("dt", pa.date32())
TIME = pa.timestamp("us", tz="UTC")
THE_NIGHT = {"dt": "The night, a UTC date."}

EVENTS = Table(
    "events",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("event_type", pa.string()),
            ("ts", TIME),
            ("weight", pa.float32()),
            ("source", pa.string()),
            ("row_number", pa.int64()),
            ("ingested", pa.date32()),
        ]
    ),
    many_valued=("user_id", "ts", "row_number"),
    before={"ingested": "dt"},
    row="One event: a user did something with an item.",
    meanings={
        "dt": "The UTC date of the event, whichever night read it.",
        "user_id": "The user, as the source writes it.",
        "item_id": "The item, as the source writes it.",
        "event_type": "The type, as the source writes it; 'event' if the source has none.",
        "ts": "When it happened.",
        "weight": "The event's own weight, or that of its type (source.event_weights); else null.",
        "source": "The part of the source: a file's path below source.path, or a table.",
        "row_number": (
            "The row in that part, from 1: the line where it begins (text) or the row (Parquet). A "
            "table has no order: there it is made from the row's values. Breaks ties of ts."
        ),
        "ingested": "The night whose run read the event. It is after dt if the event came late.",
    },
)

QUARANTINE = Table(
    "quarantine",
    pa.schema(
        [
            DT,
            ("source", pa.string()),
            ("row_number", pa.int64()),
            ("raw", pa.string()),
            ("reason", pa.string()),
        ]
    ),
    row="One row of the source that cannot be used as an event.",
    meanings={
        "dt": "The night that read the row, a UTC date.",
        "source": "The part of the source, as in events.",
        "row_number": "The row in that part, as in events.",
        "raw": "The line as it was read; for Parquet and tables its columns as JSON.",
        "reason": "Why it cannot be used.",
    },
)

# rows_read is the sum of the counts after it.
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
            ("rows_late", pa.int64()),
            ("rows_repeat", pa.int64()),
            ("rows_busy", pa.int64()),
            ("rows_filtered", pa.int64()),
            ("rows_other_nights", pa.int64()),
            ("bootstrap", pa.bool_()),
        ]
    ),
    # What was not counted yet did not happen yet.
    before=dict.fromkeys(("rows_late", "rows_repeat", "rows_busy", "rows_filtered"), "0"),
    row="One part of the source, for example a file, in one night.",
    meanings={
        **THE_NIGHT,
        "source": "The part of the source, as in events.",
        "rows_read": "Rows that were read: the sum of the counts that follow.",
        "rows_events": "Rows that became events of the night.",
        "rows_quarantined": "Rows that cannot be used; quarantine has them.",
        "rows_duplicate": "Exact duplicates: same user, item, type, time and weight.",
        "rows_late": "Events of earlier days that their own nights did not see; now in their days.",
        "rows_repeat": "Events above ingest.max_repeats.",
        "rows_busy": "Events above ingest.max_user_events.",
        "rows_filtered": "Events of a type that source.event_types leaves out.",
        "rows_other_nights": "Rows of other nights, which this night does not take.",
        "bootstrap": "True for the first night of the lake, which takes all rows before its end.",
    },
)

SOURCE_VERSIONS = Table(
    "source_versions",
    pa.schema(
        [
            DT,
            ("source", pa.string()),
            ("table_id", pa.string()),
            ("version", pa.int64()),
            ("after_version", pa.int64()),
            ("since", pa.date32()),
        ]
    ),
    row="One Delta table that events come from, in one night.",
    meanings={
        **THE_NIGHT,
        "source": "The table, as in events.",
        "table_id": "The id that Delta gave the table when it was made.",
        "version": "The version that the night read.",
        "after_version": "The version that the earlier night read; null if every file was new.",
        "since": "The first day that the earlier night did not read.",
    },
)

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
            ("users", pa.int64()),
            ("largest_user_events", pa.int64()),
            ("new_users", pa.int64()),
            ("items", pa.int64()),
            ("largest_item_events", pa.int64()),
            ("new_items", pa.int64()),
        ]
    ),
    row=(
        "One night's counts, which later nights are compared with. The first night of a lake also "
        "writes a row for each day before it, with nulls from users on."
    ),
    meanings={
        **THE_NIGHT,
        "events": "Events of the night, without those that came late.",
        "last_ts": "Time of the newest of them.",
        "event_types": "Events of each type.",
        "users": "Users with an event.",
        "largest_user_events": "Events of the user with the most.",
        "new_users": "Users without a history; null if no night before has histories.",
        "items": "Items with an event.",
        "largest_item_events": "Events of the item with the most.",
        "new_items": "Items first seen this night; null for the first night of a lake.",
    },
)

# Rows are only ever added.
ITEMS = Table(
    "items",
    pa.schema(
        [
            ("item_id", pa.string()),
            ("item_index", pa.int32()),
            ("first_seen", pa.date32()),
        ]
    ),
    partition_by=(),
    row="One item that was ever seen. Rows are added and never changed.",
    meanings={
        "item_id": "The item, as the source writes it.",
        "item_index": "Its number, from 1, never changed or reused; 0 is padding.",
        "first_seen": "UTC date of its first event.",
    },
)

CATALOGUE = Table(
    "catalogue",
    pa.schema(
        [
            DT,
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("categories", pa.list_(pa.string())),
            ("attributes", pa.string()),
        ]
    ),
    many_valued=("item_id", "title", "attributes"),
    row=(
        "One item of the catalogue. A partition is the whole catalogue; a night has one only if "
        "the catalogue differs from the newest one before, and else reads that."
    ),
    meanings={
        "dt": "The night that read this catalogue first, a UTC date.",
        "item_id": "The item, as the catalogue writes it; the same text as in events.",
        "title": "Its title, exactly as in the catalogue; null if it has none.",
        "categories": "Its categories, in the order of the catalogue; empty if it has none.",
        "attributes": "The other columns of its row, as a JSON object; null if there are none.",
    },
)

# rows_read is the sum of items and the counts of rows after it.
CATALOGUE_READS = Table(
    "catalogue_reads",
    pa.schema(
        [
            DT,
            ("source", pa.string()),
            ("catalogue_night", pa.date32()),
            ("digest", pa.string()),
            ("rows_read", pa.int64()),
            ("items", pa.int64()),
            ("rows_duplicate", pa.int64()),
            ("rows_replaced", pa.int64()),
            ("rows_rejected", pa.int64()),
            (
                "rejected",
                pa.list_(
                    pa.struct(
                        [
                            ("source", pa.string()),
                            ("reason", pa.string()),
                            ("rows", pa.int64()),
                            ("first_row", pa.int64()),
                        ]
                    )
                ),
            ),
            ("night_items", pa.int64()),
            ("items_without_row", pa.int64()),
            ("items_without_title", pa.int64()),
        ]
    ),
    row="The catalogue of one night: which one it is, and what was counted when it was read.",
    meanings={
        **THE_NIGHT,
        "source": (
            "Where it was read, as catalogue.path names it; null if the night kept an earlier one "
            "without reading."
        ),
        "catalogue_night": "The partition of catalogue that the night reads; null if none.",
        "digest": "What stands for all rows of that partition; null if there is none.",
        "rows_read": (
            "Rows that were read: the sum of items and the counts of rows that follow. Null, as "
            "these are, if nothing was read."
        ),
        "items": "Items of the catalogue that was read, or of the one that was kept.",
        "rows_duplicate": "Rows that say the same as another row of the item.",
        "rows_replaced": "Rows of an item that has another row further down, which counts.",
        "rows_rejected": "Rows that cannot be used.",
        "rejected": "Why, for each part of the source: how many rows, and the first of them.",
        "night_items": "Items with an event of the night.",
        "items_without_row": "Those of them that the catalogue has no row of.",
        "items_without_title": "Those of them that have no title, for want of a row or in it.",
    },
)

SEQUENCES = Table(
    "sequences",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("items", pa.list_(pa.int32())),
            ("n_events", pa.int32()),
            ("last_ts", TIME),
            ("types", pa.list_(pa.string())),
            ("weights", pa.list_(pa.float32())),
            ("times", pa.list_(TIME)),
        ]
    ),
    many_valued=("user_id",),
    by_user=True,
    row="One user's history up to the end of one night.",
    meanings={
        **THE_NIGHT,
        "user_id": "The user.",
        "items": "item_index of the last events (sequences.last_events), oldest first.",
        "n_events": "Events of the whole history.",
        "last_ts": "Time of the newest event.",
        "types": "event_type of each of items; null unless model or evaluation asks for it.",
        "weights": "weight of each of items; null unless model or evaluation asks for it.",
        "times": "ts of each of items; null unless model or evaluation asks for it.",
    },
)

# While both fingerprints hold, building the histories anew would give the same rows.
SEQUENCE_INPUTS = Table(
    "sequence_inputs",
    pa.schema(
        [
            DT,
            ("inputs", pa.string()),
            ("files", pa.string()),
            ("core_items", pa.list_(pa.int32())),
            ("data_fingerprint", pa.string()),
            ("data_items", pa.int32()),
            ("data_trainable", pa.int64()),
            ("data_files", pa.string()),
        ]
    ),
    row="What one night's histories were made from, so that the next night may add to them.",
    meanings={
        **THE_NIGHT,
        "inputs": "Fingerprint of the settings, the vocabulary and the files of events.",
        "files": "Fingerprint of the night's files of sequences and left_out_events.",
        "core_items": (
            "item_index of the items with enough events; null if left_out_events are not kept."
        ),
        "data_fingerprint": "Fingerprint of the histories themselves; a model is named after it.",
        "data_items": "Number of different items in the histories.",
        "data_trainable": "Users with events enough to train on; null in older rows.",
        "data_files": "Fingerprint of the files that data_fingerprint was taken of.",
    },
)

# Not kept where most events are left out.
LEFT_OUT_EVENTS = Table(
    "left_out_events",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("item_index", pa.int32()),
            ("ts", TIME),
            ("position", pa.int64()),
            ("event_type", pa.string()),
            ("weight", pa.float32()),
        ]
    ),
    many_valued=("ts", "position"),
    row=(
        "One event that a night's histories leave out, because its user or item has too few events "
        "(sequences.min_user_events, sequences.min_item_events)."
    ),
    meanings={
        **THE_NIGHT,
        "user_id": "The user.",
        "item_index": "The item's number, as in items.",
        "ts": "When it happened.",
        "position": "Order of the events: ascending by user, and within a user by time.",
        "event_type": "Its type; null unless model or evaluation asks for it.",
        "weight": "Its weight; null unless model or evaluation asks for it.",
    },
)

MODELS = Table(
    "models",
    pa.schema(
        [
            DT,
            ("model_version", pa.string()),
            ("path", pa.string()),
            ("promoted", pa.bool_()),
            ("parent_version", pa.string()),
            ("settings_fingerprint", pa.string()),
            ("data_fingerprint", pa.string()),
            ("warm", pa.bool_()),
            ("first_free_id", pa.int32()),
            ("next_intent_id", pa.int32()),
            ("superseded", pa.bool_()),
            ("held_out_one_in", pa.int64()),
        ]
    ),
    before={"superseded": "false", "held_out_one_in": "1"},
    row="One trained model.",
    meanings={
        "dt": "The night whose histories it was trained on, a UTC date.",
        "model_version": "Its name: the night and a hash of settings, data and parent.",
        "path": "Its folder, below lake.root.",
        "promoted": "Whether it labels from its night on, until the next promoted model.",
        "parent_version": "The promoted model before it, whose intents it carries on.",
        "settings_fingerprint": "Hash of the settings that decide what is trained.",
        "data_fingerprint": "Hash of the histories that it was trained on.",
        "warm": "Whether its training continued from its parent; null in older rows.",
        "first_free_id": "Smallest id that its new intents could get; null in older rows.",
        "next_intent_id": (
            "Smallest id above those of its intents, which no later model gives again; null in "
            "older rows."
        ),
        "superseded": (
            "Whether its night ran again with the same settings, on other events or from another "
            "parent. Such a model keeps no ids, and labels nothing any more."
        ),
        "held_out_one_in": (
            "n, where one user in n was held out: the newest two events of this user were not "
            "trained on. A power of two; 1 is everybody."
        ),
    },
)

CHOICES = Table(
    "choices",
    pa.schema(
        [
            DT,
            ("model_version", pa.string()),
            ("next_intent_id", pa.int32()),
        ]
    ),
    row="One night from which on a person has chosen the model that labels.",
    meanings={
        "dt": "The night, a UTC date. The choice holds until a later night's model is promoted.",
        "model_version": "The chosen model, of this night or an earlier one.",
        "next_intent_id": "Smallest id that a new intent may get: above every id used until then.",
    },
)

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
    row="One figure about one model.",
    meanings={
        "dt": "The night that measured it, a UTC date.",
        "model_version": "The model, or the name of a baseline, such as popularity.",
        "split": (
            "test: the newest event of each user. time: the night's events, ranked by a model of a "
            "night before. labels: the labels that the model would give."
        ),
        "slice": (
            "The users: all; new items (the target is new to the user); repeats (it is not); idle "
            "(no event since they were labelled). 'all of type purchase': those whose target is a "
            "purchase. 'against <version>': the difference from that model or baseline."
        ),
        "metric": "Name of the figure, for example NDCG@20.",
        "value": "The figure.",
    },
)

INTENT_LABELS = Table(
    "intent_labels",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("intent_id", pa.int32()),
            ("confidence", pa.float32()),
            ("runner_up_id", pa.int32()),
            ("runner_up_confidence", pa.float32()),
            ("n_events", pa.int32()),
            ("last_ts", TIME),
            ("model_version", pa.string()),
        ]
    ),
    many_valued=("user_id",),
    by_user=True,
    row="One user in one night.",
    meanings={
        "dt": "The night, a UTC date: events up to its end count.",
        "user_id": "The user, as the source writes it; once in each night.",
        "intent_id": "The user's intent; null if the model knows no item of the user.",
        "confidence": "Probability of that intent, 0 to 1; null where intent_id is.",
        "runner_up_id": "The most probable other intent; null if there is none.",
        "runner_up_confidence": "Its probability; the higher one where the label was held.",
        "n_events": "Events of the user up to the end of the night.",
        "last_ts": "Time of the newest of them.",
        "model_version": "The model that gave the label.",
    },
)

# What readers of the labels are promised is in `intent_labels` alone (tasks/targets/contract.py).
LABEL_EVIDENCE = Table(
    "label_evidence",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            ("intent_id", pa.int32()),
            ("calibrated_confidence", pa.float32()),
            ("clear", pa.bool_()),
            ("held_since", pa.date32()),
            (
                "items",
                pa.list_(pa.struct([("item_id", pa.string()), ("share", pa.float32())])),
            ),
            (
                "intents",
                pa.list_(pa.struct([("intent_id", pa.int32()), ("probability", pa.float32())])),
            ),
            ("model_version", pa.string()),
        ]
    ),
    many_valued=("user_id",),
    by_user=True,
    row="Why one user has the label of one night, and how sure that is.",
    meanings={
        **THE_NIGHT,
        "user_id": "The user, as in intent_labels; once in each night.",
        "intent_id": "The label, as in intent_labels.",
        "calibrated_confidence": (
            "Probability that this is the most probable intent after the user's next event, in "
            "thousandths. Null "
            "where intent_id is, and if the model is from before models were calibrated."
        ),
        "clear": (
            "Whether calibrated_confidence is at least label.clear_above. False: the history "
            "supports no intent well. Null where calibrated_confidence is."
        ),
        "held_since": (
            "The night since which the label is held against a more probable intent; null if it is "
            "the most probable one."
        ),
        "items": (
            "Up to three items of the history that speak most for the label. share: of all that "
            "speaks for it, so the shares of all such items of the history sum to 1."
        ),
        "intents": (
            "The three most probable intents now, the first one first. probability: that it is the "
            "most probable one after the user's next event; null where calibrated_confidence is."
        ),
        "model_version": "The model that gave the label.",
    },
)

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
            ("born", pa.date32()),
            ("status", pa.string()),
            (
                "came_from",
                pa.list_(pa.struct([("intent_id", pa.int32()), ("share", pa.float32())])),
            ),
            ("name", pa.string()),
            ("description", pa.string()),
            ("named_by", pa.string()),
            ("kept_meaning", pa.float64()),
            ("confidence_deciles", pa.list_(pa.float32())),
        ]
    ),
    row="One intent in one night.",
    meanings={
        **THE_NIGHT,
        "intent_id": "The intent. The id means the same intent on every later night.",
        "users": "Users with this label.",
        "share": "Their share of all users with a label.",
        "top_items": (
            "The items that set the intent apart. lift: share of its users who have the item, "
            "divided by the share of all labelled users who have it."
        ),
        "born": "Night of the first model that had the intent.",
        "status": "active; empty: no users; retired: given up this night, and never used again.",
        "came_from": (
            "Which intents of the model before its users had on the night it was trained, with "
            "their share."
        ),
        "name": (
            "Its name on this night: the one that a person gave before it, else the automatic one. "
            "Null if it has none yet."
        ),
        "description": "What the person wrote about it; null if there is nothing.",
        "named_by": "The person who named it; null if the name is automatic.",
        "kept_meaning": (
            "How much of what set the intent apart when a person named it does so now, 0 to 1; "
            "null if the name is automatic."
        ),
        "confidence_deciles": (
            "What 10 %, 20 %, to 90 % of its users have as calibrated confidence at most (as "
            "confidence, if the model is not calibrated); empty without users."
        ),
    },
)

INTENT_FEATURES = Table(
    "intent_features",
    pa.schema(
        [
            DT,
            ("intent_id", pa.int32()),
            ("kind", pa.string()),
            ("value", pa.string()),
            ("title", pa.string()),
            ("is_over", pa.bool_()),
            ("rank", pa.int32()),
            ("observed", pa.float64()),
            ("all_observed", pa.float64()),
            ("share", pa.float64()),
            ("expected_share", pa.float64()),
            ("log_odds", pa.float64()),
            ("z", pa.float64()),
            ("score", pa.float64()),
        ]
    ),
    row="One feature that sets one intent apart in one night (docs/intents.md has the measure).",
    meanings={
        **THE_NIGHT,
        "intent_id": "The intent.",
        "kind": "category, word (of a title of the catalogue), item, or event_type (of the night).",
        "value": "The category, the word in small letters, the item_id, or the type.",
        "title": "The item's title; null if it has none, and for other kinds.",
        "is_over": "Whether its users have it more often than others; false: more seldom.",
        "rank": (
            "Its place among the features of that kind and direction, from 1. After the first ten "
            "come only those that the name of the intent stands on."
        ),
        "observed": (
            "Users of the intent who have it. Of categories and words: how often they are expected "
            "among items that are drawn from the users' histories, sqrt(n) times from one of n "
            "different items. So no user counts for many."
        ),
        "all_observed": "The same of all labelled users.",
        "share": (
            "observed as a share of the intent's users; of event types, of those with an event of "
            "the night; of categories and words, of the draws."
        ),
        "expected_share": "The same of all labelled users.",
        "log_odds": "The log-odds ratio of its users against all others, with a prior.",
        "z": "log_odds in standard errors.",
        "score": "log_odds, 1.96 standard errors nearer to 0; 0 if it is not that far away.",
    },
)

INTENT_NEXT_ITEMS = Table(
    "intent_next_items",
    pa.schema(
        [
            DT,
            ("intent_id", pa.int32()),
            ("rank", pa.int32()),
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("score", pa.float32()),
        ]
    ),
    row=(
        "One item that the model expects next of the users of one intent. If enough items have "
        "five users or more, no other items are named."
    ),
    meanings={
        **THE_NIGHT,
        "intent_id": "The intent.",
        "rank": "The item's place, from 1.",
        "item_id": "The item.",
        "title": "Its title in the catalogue; null if it has none.",
        "score": "The model's score of the item for the centre of the intent.",
    },
)

INTENT_USERS = Table(
    "intent_users",
    pa.schema(
        [
            DT,
            ("intent_id", pa.int32()),
            ("rank", pa.int32()),
            ("user_id", pa.string()),
            ("confidence", pa.float32()),
        ]
    ),
    row="One of the users that are closest to one intent.",
    meanings={
        **THE_NIGHT,
        "intent_id": "The intent.",
        "rank": "The user's place, from 1: by confidence, then by the number of events.",
        "user_id": "The user, as the source writes it.",
        "confidence": "As in intent_labels.",
    },
)

INTENT_FLOWS = Table(
    "intent_flows",
    pa.schema(
        [
            DT,
            ("from_intent_id", pa.int32()),
            ("to_intent_id", pa.int32()),
            ("users", pa.int64()),
        ]
    ),
    row=(
        "The users who had one intent on the labelled night before and have one now. A night that "
        "was relabelled has none, for it does not follow from a night before."
    ),
    meanings={
        **THE_NIGHT,
        "from_intent_id": "The intent before; null: they had none, or were not there.",
        "to_intent_id": "The intent of this night; null: they have none, or are gone.",
        "users": "How many they are. Both ids may be the same: these users stayed.",
    },
)

MEANING = pa.list_(
    pa.struct([("kind", pa.string()), ("value", pa.string()), ("log_odds", pa.float64())])
)

# A night writes its own partition alone, so what was given on the nights before stays as it is.
INTENT_NAMES = Table(
    "intent_names",
    pa.schema(
        [
            DT,
            ("intent_id", pa.int32()),
            ("name", pa.string()),
            ("why", pa.string()),
            ("rests_on", pa.list_(pa.string())),
            ("meaning", MEANING),
        ]
    ),
    row="One automatic name that one intent was given. It holds until the intent gets another one.",
    meanings={
        "dt": "The night that gave it, a UTC date.",
        "intent_id": "The intent.",
        "name": "The name, two to four words; on each night no two living intents have the same.",
        "why": (
            "born: it is the first; drifted: too little of what the last one stood on is left "
            "(label.rename_below); taken: another living intent has the last one; catalogue: the "
            "last one had to do with ids of items, and now there is a catalogue."
        ),
        "rests_on": "The categories, words, titles or item ids that the name is made of.",
        "meaning": "What set the intent apart when it was named, to hold later nights against.",
    },
)

# Rows are only ever added.
GIVEN_NAMES = Table(
    "given_names",
    pa.schema(
        [
            DT,
            ("intent_id", pa.int32()),
            ("name", pa.string()),
            ("description", pa.string()),
            ("given_by", pa.string()),
            ("given_at", TIME),
            ("meaning", MEANING),
        ]
    ),
    partition_by=(),
    row="One time that a person named an intent, or took the name back. The newest one counts.",
    meanings={
        "dt": "The first night whose tables have the name: the one after the newest labelled.",
        "intent_id": "The intent.",
        "name": "The name; empty: the person took it back, and the automatic one counts.",
        "description": "What the intent is about, in the person's words; null if nothing was said.",
        "given_by": "Who it was.",
        "given_at": "When it was.",
        "meaning": "What set the intent apart then, to hold later nights against.",
    },
)

# The two tables that follow are for the page of intents, which reads no model and no night's labels
# as a whole.
LABEL_COUNTS = Table(
    "label_counts",
    pa.schema(
        [
            DT,
            ("users", pa.int64()),
            ("users_with_intent", pa.int64()),
            ("clear", pa.int64()),
            ("held", pa.int64()),
            ("compared", pa.int64()),
            ("changed", pa.int64()),
            ("idle", pa.int64()),
            ("idle_changed", pa.int64()),
            (
                "of_intents",
                pa.list_(pa.struct([("intent_id", pa.int32()), ("clear", pa.int64())])),
            ),
        ]
    ),
    row="The labels of one night, counted, also beside those of the labelled night before.",
    meanings={
        **THE_NIGHT,
        "users": "Users with a label, also one without an intent.",
        "users_with_intent": "Those of them who have an intent.",
        "clear": "Those of them whose label is clear, as in label_evidence.",
        "held": (
            "Those of them whose label is held against a more probable intent, as held_since of "
            "label_evidence says. Null on a night from before it was counted."
        ),
        "compared": "Users who had a label on the night before, too; 0 if none is compared with.",
        "changed": "Those of them whose intent is another one, or came, or went.",
        "idle": "Of compared: users without an event since.",
        "idle_changed": "Of idle: those whose intent is another one, or came, or went.",
        "of_intents": (
            "For each intent with labels: how many of its labels are clear. Empty if the model is "
            "not calibrated. Null on a night from before it was counted."
        ),
    },
)

# A night writes its own partition alone: an intent keeps the place that it was given first.
INTENT_PLACES = Table(
    "intent_places",
    pa.schema([DT, ("intent_id", pa.int32()), ("x", pa.float64()), ("y", pa.float64())]),
    row=(
        "The place on the map that one intent was given. It stays there on every later night. "
        "Near ones are of intents that the model saw as alike when the later one was born."
    ),
    meanings={
        "dt": "The night that gave it, a UTC date.",
        "intent_id": "The intent.",
        "x": "To the right; the first intents of a lake are between -1 and 1.",
        "y": "Upwards.",
    },
)

# Only nights that ran with recommend.top_k have rows.
USER_RECOMMENDATIONS = Table(
    "user_recommendations",
    pa.schema(
        [
            DT,
            ("user_id", pa.string()),
            (
                "items",
                pa.list_(pa.struct([("item_id", pa.string()), ("score", pa.float32())])),
            ),
            ("model_version", pa.string()),
        ]
    ),
    many_valued=("user_id",),
    by_user=True,
    row="The items that the model expects next of one user in one night (recommend.top_k).",
    meanings={
        **THE_NIGHT,
        "user_id": "The user, as in intent_labels; once in each night that has recommendations.",
        "items": (
            "Up to recommend.top_k items, the best first; of equal ones the smaller item_id. Fewer "
            "if the model knows no more that the user has not had; empty if it knows no item of "
            "the user. score: the model's score of the item as the user's next one, in "
            "thousandths. It compares items of one user; it is no probability, and says nothing "
            "beside other users or models."
        ),
        "model_version": "The model that made them, which is that of the labels.",
    },
)

# What targets get with the labels, in the transaction of the labels.
WITH_LABELS = (
    LABEL_EVIDENCE,
    INTENT_PROFILES,
    INTENT_FEATURES,
    INTENT_NEXT_ITEMS,
    INTENT_USERS,
    INTENT_FLOWS,
    INTENT_NAMES,
    USER_RECOMMENDATIONS,
)
# Of these only if the night has rows: who asks for none has no table of them, here or in a target.
ONLY_WITH_ROWS = (USER_RECOMMENDATIONS,)

STEPS = Table(
    "steps",
    pa.schema(
        [
            DT,
            ("step", pa.string()),
            ("started_at", TIME),
            ("seconds", pa.float64()),
            ("peak_mb", pa.float64()),
            ("summary", pa.string()),
            (
                "inputs",
                pa.list_(
                    pa.struct(
                        [
                            ("input", pa.string()),
                            ("night", pa.date32()),
                            ("files", pa.string()),
                            ("digest", pa.string()),
                        ]
                    )
                ),
            ),
        ]
    ),
    partition_by=("dt", "step"),
    row="The last successful run of one step of one night.",
    meanings={
        **THE_NIGHT,
        "step": "Name of the step.",
        "started_at": "When it started.",
        "seconds": "How long it took.",
        "peak_mb": "Its largest resident memory, in MB (10^6 bytes).",
        "summary": "What the step returned, as JSON.",
        "inputs": (
            "What the step stood on when it began: the partition or model, of which night, what "
            "stands for its files, and for its rows (or a version or a number). Null if it ran "
            "before this was recorded."
        ),
    },
)

# What was made from such a partition is not stale because it is gone.
TAKEN_OUT = Table(
    "taken_out",
    pa.schema(
        [
            DT,
            ("input", pa.string()),
            ("digest", pa.string()),
            ("taken_out_at", TIME),
        ]
    ),
    partition_by=(),
    row="One partition of a table that upkeep has taken out of the lake.",
    meanings={
        "dt": "The night of the partition, a UTC date.",
        "input": "What of it a step reads, as in steps.inputs.",
        "digest": "What stands for the rows that it had.",
        "taken_out_at": "When upkeep took it out.",
    },
)

LABEL_REVISIONS = Table(
    "label_revisions",
    pa.schema(
        [
            DT,
            ("revision", pa.int32()),
            ("published_at", TIME),
            ("run", pa.string()),
            ("why", pa.string()),
            ("because", pa.string()),
            ("model_version", pa.string()),
            ("labels", pa.int64()),
            ("changed", pa.int64()),
            ("added", pa.int64()),
            ("removed", pa.int64()),
            ("digest", pa.string()),
            ("files", pa.list_(pa.string())),
            ("stood_on", pa.string()),
            ("published_with", pa.string()),
        ]
    ),
    row=(
        "One published state of one night's labels. The same labels again are no new one, unless "
        "profiles, names, evidence or recommendations are others."
    ),
    meanings={
        "dt": "The night whose labels these are, a UTC date.",
        "revision": "Its number, from 1 for each night.",
        "published_at": "When it was published first.",
        "run": "Airflow's run id, or 'command line'.",
        "why": (
            "first run, relabel, people forgotten, late events, other events, rollback, other "
            "settings, earlier nights, other profiles, other recommendations, backfill or rerun."
        ),
        "because": "The same as a sentence, with nights and models.",
        "model_version": "The model that gave the labels; null if it is more than one.",
        "labels": "Users with a label, also one without an intent.",
        "changed": (
            "Users whose intent is another one than in the revision before; null, as added and "
            "removed, if its labels are in the lake no more."
        ),
        "added": "Users who had no label in the revision before.",
        "removed": "Users who had a label in the revision before and have none now.",
        "digest": "What stands for all columns of the labels.",
        "files": "The files of intent_labels that held the labels last, to compare the next with.",
        "stood_on": "What the labels were made from, as JSON.",
        "published_with": (
            "What stands for the rows of each table that was published with the labels, as JSON; "
            "null if that is not known."
        ),
    },
)

CHECK_RESULTS = Table(
    "check_results",
    pa.schema(
        [
            DT,
            ("step", pa.string()),
            ("suite", pa.string()),
            ("column_name", pa.string()),
            ("expectation", pa.string()),
            ("severity", pa.string()),
            ("met", pa.bool_()),
            ("value", pa.float64()),
            ("observed", pa.string()),
            ("expected", pa.string()),
        ]
    ),
    partition_by=("dt", "step"),
    row="One expectation of one check of one night, as the last run of the check found it.",
    meanings={
        **THE_NIGHT,
        "step": "Name of the check: check-events, check-sequences or check-labels.",
        "suite": "Its suite, which is a file of tasks/night/suites/ and a statement of sql/.",
        "column_name": "What the suite looks at; null: at the number of rows.",
        "expectation": "What is expected, in a sentence.",
        "severity": "critical: when it is not met, the night stops; warning: the night goes on.",
        "met": "Whether it was met.",
        "value": "The figure observed; null: there is none, or nothing to compare the night with.",
        "observed": "What was observed where there is no figure; may name an example of a row.",
        "expected": "The limit; null: only one value is right.",
    },
)

# The id itself is not kept.
FORGOTTEN = Table(
    "forgotten",
    pa.schema(
        [
            ("user_hash", pa.string()),
            ("salt", pa.string()),
            ("forgotten_at", TIME),
        ]
    ),
    partition_by=(),
    row="One person whose events are left out from the moment they were forgotten.",
    meanings={
        "user_hash": "SHA-256 of the salt and the user's id, hexadecimal; the id is not kept.",
        "salt": "The same in all rows of a lake.",
        "forgotten_at": "When the person was forgotten.",
    },
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
        CATALOGUE,
        CATALOGUE_READS,
        SEQUENCES,
        SEQUENCE_INPUTS,
        LEFT_OUT_EVENTS,
        MODELS,
        CHOICES,
        METRICS,
        INTENT_LABELS,
        LABEL_EVIDENCE,
        INTENT_PROFILES,
        INTENT_FEATURES,
        INTENT_NEXT_ITEMS,
        INTENT_USERS,
        INTENT_FLOWS,
        INTENT_NAMES,
        GIVEN_NAMES,
        LABEL_COUNTS,
        INTENT_PLACES,
        USER_RECOMMENDATIONS,
        STEPS,
        CHECK_RESULTS,
        TAKEN_OUT,
        LABEL_REVISIONS,
        FORGOTTEN,
    )
}
