"""What readers of published labels may rely on: the columns, their types, and a version of both.

Every target gets these columns and carries the version. `docs/labels.md` says the same to those
who read it. A column that is added, dropped, renamed or means something else is a new version.
"""

import datetime as dt
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from tasks.errors import PublishError
from tasks.lake import tables
from tasks.lake.duck import sql
from tasks.lake.tables import TIME

VERSION = 1
KEY = "contract_version"  # of the metadata of a Parquet file


@dataclass(frozen=True)
class Column:
    """A published column: its name, its types in Arrow and PostgreSQL, and what it means."""

    name: str
    type: pa.DataType
    postgres: str
    means: str
    nullable: bool = False


COLUMNS = (
    Column("dt", pa.date32(), "date", "The night: events up to the end of this UTC date count."),
    Column("user_id", pa.string(), "text", "The user, as the source writes it; once a night."),
    Column(
        "intent_id",
        pa.int32(),
        "integer",
        "What the user is after; null: the model knows no item of the user.",
        nullable=True,
    ),
    Column(
        "confidence",
        pa.float32(),
        "real",
        "How sure that is, 0 to 1; null where intent_id is.",
        nullable=True,
    ),
    Column(
        "runner_up_id",
        pa.int32(),
        "integer",
        "The intent that would be next; null: there is none.",
        nullable=True,
    ),
    Column(
        "runner_up_confidence",
        pa.float32(),
        "real",
        "How sure the runner-up is, 0 to 1; null where runner_up_id is.",
        nullable=True,
    ),
    Column("n_events", pa.int32(), "integer", "Events of the user up to the end of the night."),
    Column("last_ts", TIME, "timestamp with time zone", "Time of the last of them."),
    Column("model_version", pa.string(), "text", "The model that gave the label."),
)
NAMES = tuple(column.name for column in COLUMNS)

# What a target has of the revisions of its nights. They are a table of their own, and no part of
# the contract of the labels: a column may be added.
REVISIONS = (
    Column("dt", pa.date32(), "date", "The night whose labels were published."),
    Column("revision", pa.int32(), "integer", "Its number, from 1 for each night."),
    Column("published_at", TIME, "timestamp with time zone", "When it was published first."),
    Column("run", pa.string(), "text", "Airflow's run id, or 'command line'."),
    Column("why", pa.string(), "text", "Why there is a new one, such as first run or late events."),
    Column("because", pa.string(), "text", "The same as a sentence, if known.", nullable=True),
    Column(
        "model_version",
        pa.string(),
        "text",
        "The model that gave the labels; null: more than one.",
        nullable=True,
    ),
    Column("labels", pa.int64(), "bigint", "Users with a label, also one without an intent."),
    Column(
        "changed",
        pa.int64(),
        "bigint",
        "Users with another intent than in the revision before; null: not known any more.",
        nullable=True,
    ),
    Column("added", pa.int64(), "bigint", "Users who had no label before.", nullable=True),
    Column("removed", pa.int64(), "bigint", "Users who have no label now.", nullable=True),
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
