"""What readers of published labels may rely on: the columns, their types, and a version of both.

Every target gets these columns and carries the version. `docs/labels.md` says the same to those
who read it. A column that is added, dropped, renamed or means something else is a new version.

With the labels of a night a target gets the night's rows of other tables of the lake
(`COMPANIONS`): profiles and names of its intents, why users have their labels, and recommendations
where there are some. They are no part of the contract of the labels: a column may be added.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from tasks.errors import PublishError
from tasks.lake import tables
from tasks.lake.duck import sql
from tasks.lake.tables import TIME, Table

VERSION = 1
KEY = "contract_version"  # of the metadata of a Parquet file

POSTGRES_TYPES = {
    pa.string(): "text",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    TIME: "timestamp with time zone",
}
NESTED = "json"  # the type in PostgreSQL of lists and structs


@dataclass(frozen=True)
class Column:
    """A published column: its name, its type in Arrow, and what it means."""

    name: str
    type: pa.DataType
    means: str
    nullable: bool = False

    @property
    def postgres(self) -> str:
        """Its type in PostgreSQL."""
        return POSTGRES_TYPES.get(self.type, NESTED)


COLUMNS = (
    Column("dt", pa.date32(), "The night: events up to the end of this UTC date count."),
    Column("user_id", pa.string(), "The user, as the source writes it; once a night."),
    Column(
        "intent_id",
        pa.int32(),
        "What the user is after; null: the model knows no item of the user.",
        nullable=True,
    ),
    Column(
        "confidence",
        pa.float32(),
        "How sure that is, 0 to 1; null where intent_id is.",
        nullable=True,
    ),
    Column(
        "runner_up_id",
        pa.int32(),
        "The intent that would be next; null: there is none.",
        nullable=True,
    ),
    Column(
        "runner_up_confidence",
        pa.float32(),
        "How sure the runner-up is, 0 to 1; null where runner_up_id is.",
        nullable=True,
    ),
    Column("n_events", pa.int32(), "Events of the user up to the end of the night."),
    Column("last_ts", TIME, "Time of the last of them."),
    Column("model_version", pa.string(), "The model that gave the label."),
)
NAMES = tuple(column.name for column in COLUMNS)

# What a target has of the revisions of its nights. They are a table of their own, and no part of
# the contract of the labels: a column may be added.
REVISIONS = (
    Column("dt", pa.date32(), "The night whose labels were published."),
    Column("revision", pa.int32(), "Its number, from 1 for each night."),
    Column("published_at", TIME, "When it was published first."),
    Column("run", pa.string(), "Airflow's run id, or 'command line'."),
    Column("why", pa.string(), "Why there is a new one, such as first run or late events."),
    Column("because", pa.string(), "The same as a sentence, if known.", nullable=True),
    Column(
        "model_version",
        pa.string(),
        "The model that gave the labels; null: more than one.",
        nullable=True,
    ),
    Column("labels", pa.int64(), "Users with a label, also one without an intent."),
    Column(
        "changed",
        pa.int64(),
        "Users with another intent than in the revision before; null: not known any more.",
        nullable=True,
    ),
    Column("added", pa.int64(), "Users who had no label before.", nullable=True),
    Column("removed", pa.int64(), "Users who have no label now.", nullable=True),
)

SHARE = (0.0, 1.0)
FROM_ZERO, FROM_ONE = (0.0, None), (1.0, None)


@dataclass(frozen=True)
class Companion:
    """A table of the lake whose rows of a night are published with the night's labels.

    suffix: its name in PostgreSQL is that of the table of labels with this behind it.
    key: the columns that are together unique; without any, all rows of a night count.
    filled: the columns besides those of the key that have a value in every row.
    ranges: the least and the largest value of columns, both included; None: there is no limit.
    choices: all values of columns that have only a few.
    """

    table: Table
    suffix: str
    key: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float | None]] = field(default_factory=dict, hash=False)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name of the table in the lake, and of its files."""
        return self.table.name

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns as PostgreSQL has them; those of the key alone have to have a value."""
        return tuple(
            Column(
                column.name,
                column.type,
                self.table.meanings[column.name],
                nullable=column.name not in self.key,
            )
            for column in self.table.schema
        )

    @property
    def of_users(self) -> bool:
        """Whether its rows name users."""
        return "user_id" in self.table.schema.names

    @property
    def only_with_rows(self) -> bool:
        """Whether a target has it only once a night has rows of it."""
        return self.table in tables.ONLY_WITH_ROWS


COMPANIONS = (
    Companion(
        tables.LABEL_EVIDENCE,
        "_evidence",
        ("dt", "user_id"),
        filled=("items", "intents", "model_version"),
        ranges={"calibrated_confidence": SHARE},
    ),
    Companion(
        tables.INTENT_PROFILES,
        "_profiles",
        ("dt", "intent_id"),
        filled=("users", "share", "top_items"),
        ranges={"users": FROM_ZERO, "share": SHARE, "kept_meaning": SHARE},
        choices={"status": ("active", "empty", "retired")},
    ),
    Companion(
        tables.INTENT_FEATURES,
        "_features",
        ("dt", "intent_id", "kind", "is_over", "rank"),
        filled=("value", "share", "expected_share", "log_odds", "score"),
        ranges={
            "rank": FROM_ONE,
            "observed": FROM_ZERO,
            "all_observed": FROM_ZERO,
            "share": SHARE,
            "expected_share": SHARE,
        },
        choices={"kind": ("category", "word", "item", "event_type")},
    ),
    Companion(
        tables.INTENT_NEXT_ITEMS,
        "_next",
        ("dt", "intent_id", "rank"),
        filled=("item_id", "score"),
        ranges={"rank": FROM_ONE},
    ),
    Companion(
        tables.INTENT_USERS,
        "_users",
        ("dt", "intent_id", "rank"),
        filled=("user_id",),
        ranges={"rank": FROM_ONE, "confidence": SHARE},
    ),
    Companion(
        tables.INTENT_FLOWS,
        "_flows",
        filled=("dt", "users"),
        ranges={"users": FROM_ONE},
    ),
    Companion(
        tables.INTENT_NAMES,
        "_names",
        ("dt", "intent_id"),
        filled=("name", "why"),
        choices={"why": ("born", "drifted", "taken", "catalogue")},
    ),
    Companion(
        tables.USER_RECOMMENDATIONS,
        "_recommendations",
        ("dt", "user_id"),
        filled=("items", "model_version"),
    ),
)

ABOUT_NAMED = (
    "The newest published night, each label with the name of its intent and how sure it is."
)
# The view of PostgreSQL that joins the newest labels with the names of their intents: each column,
# and the table that it is of: the labels (""), or the companion of that suffix.
NAMED: Mapping[str, str] = {
    "dt": "",
    "user_id": "",
    "intent_id": "",
    "name": "_profiles",
    "description": "_profiles",
    "named_by": "_profiles",
    "confidence": "",
    "calibrated_confidence": "_evidence",
    "clear": "_evidence",
    "held_since": "_evidence",
    "runner_up_id": "",
    "runner_up_confidence": "",
    "n_events": "",
    "last_ts": "",
    "model_version": "",
}


def named_columns() -> tuple[Column, ...]:
    """Return the columns of that view."""
    of_table = {"": COLUMNS} | {one.suffix: one.columns for one in COMPANIONS}
    return tuple(
        next(column for column in of_table[suffix] if column.name == name)
        for name, suffix in NAMED.items()
    )


def validate(con: duckdb.DuckDBPyConnection, night: dt.date) -> int:
    """Validate the view `intent_labels` against the contract; return how many labels it has.

    Raises
    ------
    PublishError
        A column is missing, of another type or one too many, or a row is not as promised.
    """
    promised = pa.schema([(column.name, column.type) for column in COLUMNS])
    there = con.table(tables.INTENT_LABELS.name).limit(0).to_arrow_table().schema
    faults = [
        f"column {name} is {_type(there, name)} instead of {_type(promised, name)}"
        for name in dict.fromkeys([*promised.names, *there.names])
        if _type(there, name) != _type(promised, name)
    ]
    labels = 0
    if not faults:
        [(labels, *found)] = con.execute(sql("contract_faults")).fetchall()
        kinds = (
            "without a value that is promised",
            "of a user who has another",
            "with half an intent",
            "with a confidence outside of 0 to 1",
        )
        faults = [f"{n} {kind}" for n, kind in zip(found, kinds, strict=True) if n]
    if faults:
        raise PublishError(
            f"labels of night {night} break version {VERSION} of the contract with their readers "
            f"({'; '.join(faults)}): nothing was published; run label for the night again, or "
            "change the contract in tasks/targets/contract.py and docs/labels.md"
        )
    return labels


def _type(schema: pa.Schema, name: str) -> str:
    return str(schema.field(name).type) if name in schema.names else "missing"
