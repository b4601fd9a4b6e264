"""What each step of a night stands on, as fingerprints.

`run_step` takes them before a step begins and records them in `steps.inputs`, in the transaction
that says that the step has ended. `tasks.chores.stale` holds what is recorded against the tables of
now. A step that is killed leaves no record, and what changes while it runs differs from the record:
so a night that is not up to date never looks as if it were.

The fingerprint of a partition is a digest of its rows, in whatever order and files they lie: a
partition that was written anew with the same rows is the same. While its files are those that a
digest was recorded of, nothing is read.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from tasks.lake import Lake, duck, tables
from tasks.lake.storage import Storage
from tasks.lake.tables import Table
from tasks.registry.versions import promoted, registered
from tasks.settings import Settings

EVENTS, SEQUENCES, METRICS = "events", "sequences", "metrics"
CATALOGUE = "catalogue"  # that of the night, whichever night wrote it
LABELS = "intent_labels"  # with all columns, as readers get them
LABELS_BEFORE = "labels before"  # what the next night reads of them
EVIDENCE_BEFORE = "evidence before"  # what the next night reads of it
MODEL_BEFORE = "model before"  # the last promoted one of an earlier night
MODELS = "models of the night"
LABELS_WITH = "labels with"  # the model that labels, by promotion or by a person's choice
RELABELLED_WITH = "relabelled with"  # the model that a person has named for this night alone
NAMES_BEFORE = "names before"  # the automatic names that nights before have given
EVIDENCE = tables.LABEL_EVIDENCE.name
RECOMMENDATIONS = tables.USER_RECOMMENDATIONS.name
WITH_LABELS = (
    "with labels"  # stands for each of tables.WITH_LABELS, which are inputs by their names
)
FORGOTTEN = "forgotten"  # says why events have changed, and is no reason by itself

# The rows that a fingerprint is taken of: table and columns. `ingested` says which night brought an
# event, and changes no history.
ROWS: dict[str, tuple[Table, tuple[str, ...]]] = {
    EVENTS: (
        tables.EVENTS,
        tuple(name for name in tables.EVENTS.schema.names if name not in ("dt", "ingested")),
    ),
    SEQUENCES: (tables.SEQUENCES, tuple(tables.SEQUENCES.schema.names[1:])),
    METRICS: (tables.METRICS, tuple(tables.METRICS.schema.names[1:])),
    # One row says what stands for all items.
    CATALOGUE: (tables.CATALOGUE_READS, ("digest",)),
    LABELS: (tables.INTENT_LABELS, tuple(tables.INTENT_LABELS.schema.names[1:])),
    LABELS_BEFORE: (tables.INTENT_LABELS, ("user_id", "intent_id", "last_ts")),
    EVIDENCE_BEFORE: (tables.LABEL_EVIDENCE, ("user_id", "held_since")),
} | {table.name: (table, tuple(table.schema.names[1:])) for table in tables.WITH_LABELS}
NEAR = dt.timedelta(days=8)  # nights whose records are looked through for digests that are known


@dataclass(frozen=True)
class Input:
    """One thing that a step stands on.

    `night` is the night of its partition, or of the model; `files` stands for the names of the
    partition's files; `digest` for what is in them, or it is a version or a number.
    """

    input: str
    night: dt.date | None
    files: str | None
    digest: str


def inputs_of(
    settings: Settings, step: str, night: dt.date, *, relabelled_with: str | None = None
) -> list[Input]:
    """Return what a step of a night stands on now.

    relabelled_with: the model that labels the night because a person has named it for this once.
    """
    if step in OPTIONAL and not settings.recommend.top_k:
        return []
    return list(Fingerprints(settings, near=night).of_step(step, night, relabelled_with))


class _SmallTables(Lake):
    """The small tables of a lake as they are now, each read once for all nights."""

    def __init__(self, root: Path | str, storage: Storage | None = None) -> None:
        super().__init__(root, storage)
        self._rows: dict[str, pl.DataFrame] = {}

    def scan(
        self, table: Table, first: dt.date | None = None, last: dt.date | None = None
    ) -> pl.LazyFrame:
        if table.name not in self._rows:
            self._rows[table.name] = super().scan(table).collect()
        rows = self._rows[table.name].lazy()
        rows = rows if first is None else rows.filter(pl.col("dt") >= first)
        return rows if last is None else rows.filter(pl.col("dt") <= last)


class Fingerprints:
    """The fingerprints of the tables as they are now, each read at most once."""

    def __init__(self, settings: Settings, *, near: dt.date | None = None) -> None:
        """Load the digests that steps have recorded: of nights near this one, or of all."""
        self.settings = settings
        self.lake = Lake.of(settings)
        first, last = (near - NEAR, near + NEAR) if near else (None, None)
        recorded = _recorded(self.lake, first, last).filter(pl.col("files").is_not_null())
        rows = recorded.select("input", "night", "files", "digest").unique().iter_rows()
        self._known: dict[tuple[str, dt.date, str], str] = {
            (name, night, files): digest for name, night, files, digest in rows
        }
        self._files: dict[str, dict[dt.date, str]] = {}
        self._small = _SmallTables.of(settings)  # models, choices, forgotten, names
        self._models: dict[dt.date, tuple[str, dt.date] | None] = {}  # that label, by night

    def of_step(
        self, step: str, night: dt.date, relabelled_with: str | None = None
    ) -> Iterator[Input]:
        """Yield what a step of a night stands on now."""
        lake, day_before = self._small, night - dt.timedelta(days=1)
        for name in READS.get(step, ()):
            if name == EVENTS and step == "build-sequences":
                yield from self.rows(EVENTS, last=night)
            elif name in (LABELS_BEFORE, EVIDENCE_BEFORE):
                labelled = self._files_of(LABELS_BEFORE)
                last = max((one for one in labelled if one < night), default=None)
                if last and not relabelled_with:
                    yield from self.rows(name, last, last)
            elif name == WITH_LABELS:
                # A night without evidence is from before they were published.
                if night in self._files_of(EVIDENCE):
                    for table in tables.WITH_LABELS:
                        yield from self.rows(table.name, night, night)
            elif name in ROWS:
                yield from self.rows(name, night, night)
            elif name == MODEL_BEFORE:
                yield _model(name, self._promoted(day_before))
            elif name == MODELS:
                versions = registered(lake, night)["model_version"]
                yield Input(name, night, None, " ".join(versions))
            elif name == NAMES_BEFORE:
                yield from self._names_before(day_before, relabelled_with)
            elif name == LABELS_WITH and relabelled_with:
                yield Input(RELABELLED_WITH, None, None, relabelled_with)
            elif name == LABELS_WITH:
                yield _model(name, self._promoted(night))
            elif name == FORGOTTEN:
                hashes = sorted(lake.scan(tables.FORGOTTEN).collect()["user_hash"])
                yield Input(name, None, None, short(hashes))

    def rows(
        self, name: str, first: dt.date | None = None, last: dt.date | None = None
    ) -> list[Input]:
        """Return the fingerprints of the partitions of nights first..last that there are."""
        files = {
            night: names
            for night, names in self._files_of(name).items()
            if (first is None or night >= first) and (last is None or night <= last)
        }
        unknown = [night for night in files if (name, night, files[night]) not in self._known]
        for night, digest in self._read(name, unknown).items():
            self._known[name, night, files[night]] = digest
        return [
            # A partition that went while it was read is taken as empty.
            Input(name, night, files[night], self._known.get((name, night, files[night]), ""))
            for night in sorted(files)
        ]

    def forget_files(self) -> None:
        """Look at the tables anew the next time: a step has written to them."""
        self._files.clear()
        self._models.clear()
        self._small = _SmallTables.of(self.settings)

    def _names_before(self, until: dt.date, relabelled_with: str | None) -> Iterator[Input]:
        """Yield what stands for the names until a night, if there are any that count."""
        rows = self._small.scan(tables.INTENT_NAMES, last=until).sort("dt", "intent_id").collect()
        newest = rows.group_by("intent_id", maintain_order=True).last().sort("intent_id")
        if newest.height and not relabelled_with:
            named = newest.select("intent_id", "name", "meaning").iter_rows()
            yield Input(NAMES_BEFORE, None, None, short([repr(name) for name in named]))

    def _promoted(self, until: dt.date) -> tuple[str, dt.date] | None:
        if until not in self._models:
            self._models[until] = promoted(self._small, until=until)
        return self._models[until]

    def _files_of(self, name: str) -> dict[dt.date, str]:
        table, _ = ROWS[name]
        if table.name not in self._files:
            self._files[table.name] = files_by_night(self.lake, table)
        return self._files[table.name]

    def _read(self, name: str, nights: list[dt.date]) -> dict[dt.date, str]:
        if not nights:
            return {}
        table, columns = ROWS[name]
        with duck.connect(self.settings) as con:
            self.lake.view(con, table, "digested", min(nights), max(nights))
            wanted = duckdb.ColumnExpression("dt").isin(*map(duckdb.ConstantExpression, nights))
            return digests(con.table("digested").filter(wanted), columns)


# What each step stands on, in the order in which reasons are given.
READS: Mapping[str, tuple[str, ...]] = {
    "check-events": (EVENTS, CATALOGUE),
    "build-sequences": (EVENTS, FORGOTTEN),
    "check-sequences": (SEQUENCES,),
    "train": (SEQUENCES, MODEL_BEFORE),
    "evaluate": (SEQUENCES, EVENTS, MODELS, MODEL_BEFORE, LABELS_BEFORE),
    "promote": (METRICS, MODEL_BEFORE),
    "label": (SEQUENCES, LABELS_WITH, LABELS_BEFORE, EVIDENCE_BEFORE, NAMES_BEFORE, CATALOGUE),
    "recommend": (SEQUENCES, LABELS),
    "check-labels": (LABELS, SEQUENCES, EVIDENCE, RECOMMENDATIONS),
    "publish": (LABELS, WITH_LABELS),
}
# Stands on nothing where it is not asked for.
OPTIONAL = ("recommend",)


def digests(rows: duckdb.DuckDBPyRelation, columns: Iterable[str]) -> dict[dt.date, str]:
    """Return the digest of the rows of each `dt` of a relation, in whatever order they come."""
    # DuckDB's own hash: MD5 takes 25 times as long. It may be another one in a later version of
    # DuckDB: then rows that are written anew look changed, and never the other way round. The sum,
    # and not XOR, for it tells two equal rows from none.
    values = ", ".join(map(duck.identifier, columns))
    found = rows.aggregate(f"dt, count(*), sum(hash({values})::HUGEINT)::VARCHAR").fetchall()
    return {night: f"{count}:{total}" for night, count, total in found}


def files_by_night(lake: Lake, table: Table) -> dict[dt.date, str]:
    """Return what stands for the files of each night's partition; no name is ever used again."""
    names: dict[dt.date, list[str]] = {}
    for file in lake.files(table):
        folder, name = file.split("/")[-2:]
        names.setdefault(dt.date.fromisoformat(folder.removeprefix("dt=")), []).append(name)
    return {night: short(sorted(found)) for night, found in names.items()}


def as_rows(inputs: Iterable[Input]) -> list[dict[str, Any]]:
    """Return inputs as the column `inputs` of `steps` holds them."""
    return [asdict(one) for one in inputs]


def recorded_inputs(
    lake: Lake, first: dt.date | None = None, last: dt.date | None = None
) -> dict[dt.date, dict[str, list[Input] | None]]:
    """Return what is recorded of the steps that have ended, by night and step.

    None for a step that ended before there were records.
    """
    rows = lake.scan(tables.STEPS, first, last).select("dt", "step", "inputs").collect()
    found: dict[dt.date, dict[str, list[Input] | None]] = {}
    for night, step, inputs in rows.iter_rows():
        known = None if inputs is None else [Input(**one) for one in inputs]
        found.setdefault(night, {})[step] = known
    return found


def taken_out(lake: Lake) -> dict[tuple[str, dt.date], str]:
    """Return the digests of the partitions that `upkeep` has taken out, by input and night."""
    rows = lake.scan(tables.TAKEN_OUT).sort("taken_out_at").collect()
    return {(row["input"], row["dt"]): row["digest"] for row in rows.iter_rows(named=True)}


def keep_digests(settings: Settings, table: Table, nights: list[dt.date]) -> None:
    """Note what these partitions hold, which `upkeep` is about to take out."""
    lake = Lake.of(settings)
    names = [name for name, (of, _) in ROWS.items() if of is table]
    if not names or not nights:
        return
    now = dt.datetime.now(dt.UTC)
    fingerprints, going = Fingerprints(settings), set(nights)
    rows = [
        {"dt": one.night, "input": name, "digest": one.digest, "taken_out_at": now}
        for name in names
        for one in fingerprints.rows(name, min(nights), max(nights))
        if one.night in going
    ]
    lake.append(tables.TAKEN_OUT, pa.Table.from_pylist(rows, schema=tables.TAKEN_OUT.schema))


def _model(name: str, model: tuple[str, dt.date] | None) -> Input:
    version, night = model or ("", None)
    return Input(name, night, None, version)


def _recorded(lake: Lake, first: dt.date | None, last: dt.date | None) -> pl.DataFrame:
    rows = (
        lake.scan(tables.STEPS, first, last).select("inputs").filter(pl.col("inputs").is_not_null())
    )
    return rows.explode("inputs").drop_nulls().unnest("inputs").collect()


def short(names: list[str]) -> str:
    """Return what stands for a list of texts: 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
