"""Reading and writing the Delta tables of the lake.

A partition is replaced whole or not at all, in one transaction; a reader sees the version before
or the version after, never half. What deletes files that a reader may have open (`purge`,
`vacuum`) is done while no step runs: steps hold the lake's lock together, those hold it alone.
Two steps of one night take turns.

A table from before one of its columns reads as if it had it (`Table.before`); the next write adds
the column to the table, and leaves its files as they are.
"""

import contextlib
import datetime as dt
import glob
import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import unquote

import duckdb
import polars as pl
import pyarrow as pa
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Field,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from tasks.errors import LakeError, NotReadyError
from tasks.lake.duck import identifier, literal
from tasks.lake.leases import PREFIX as LEASES
from tasks.lake.storage import (
    LOCK,
    LOCKS,
    MOVED,
    MOVING,
    File,
    Storage,
    parquet,
    storage_at,
    storage_of,
)
from tasks.lake.tables import TABLES, Table
from tasks.settings import Settings
from tasks.stores import OF_A_STORE

log = logging.getLogger(__name__)

CAME_LATER = "elcrec.cameLater"  # in the metadata of a column that files from before it lack
MODELS = "model_files"
TRAINING = f"{MODELS}/.training"  # folders of trainings that go on
PAGES = "quality"  # of the checks, a folder a night
# A file of a table that is sorted by user keeps statistics for each so many rows. Whoever looks up
# one user reads so many. By default it would be a million.
ROWS_BY_USER = 1 << 15
STAGED = "staged-"  # begins the name of a folder in a table's, of files that are not its own yet
LOG = "_delta_log"  # in a table's folder: one file a version, and checkpoints

Nights = list[dt.date] | tuple[dt.date, dt.date]


def model_folder(version: str) -> str:
    """Return the folder of a model's weights and settings, below the root."""
    return f"{MODELS}/{version}"


# What is in a lake's place and says who works on it.
NOT_OF_THE_LAKE = {LOCK, LOCKS, LEASES}

# The tables that this run has open, by their names, for each lake that it holds. To open one reads
# the whole log since its last checkpoint; to bring it up to date reads what came since. Not kept
# for longer than the lake is held: until then nobody deletes the log that they go on from.
_opened: ContextVar[Mapping[str, dict[str, DeltaTable]]] = ContextVar(
    "opened", default=MappingProxyType({})
)


class ConcurrentWriteError(Exception):
    """Another run has written to the table since the version that was read."""


class Lake:
    """The tables below one root, each a Delta table in a folder of its own name."""

    def __init__(self, root: Path | str, storage: Storage | None = None) -> None:
        """Take the lake of a folder, or of a URL whose keys the environment has."""
        self.storage = storage or storage_at(root)
        self.root = self.storage.at()  # for messages
        self.turns = self.storage.turns(self._fence)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the lake that the settings name."""
        return cls(settings.lake.root, storage_of(settings))

    @classmethod
    def there(cls, settings: Settings) -> Self:
        """Return the lake that the settings name; LakeError when it is not there."""
        lake = cls.of(settings)
        if not lake.storage.is_there():
            raise LakeError(
                f"there is no lake at {lake.root}: correct lake.root (--lake), or run a night first"
            )
        return lake

    def path(self, table: Table) -> Path | str:
        """Return where a table is, for messages and for those who read it by other means."""
        return self.storage.at(table.name)

    def partition(self, table: Table, night: dt.date) -> Path | str:
        """Return where the rows of a night are, for messages."""
        return self.storage.at(f"{table.name}/dt={night}")

    def model_dir(self, version: str) -> Path | str:
        """Return where a model's weights and settings are, for messages."""
        return self.storage.at(model_folder(version))

    def has_model(self, version: str) -> bool:
        """Tell whether there is a folder of a model, whole or not."""
        return version in self.storage.folders(MODELS)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the lake together with other steps; wait while someone has it alone."""
        with self.storage.explaining(), self.turns.in_use(), self._keeping_open():
            self._refuse_another_place()
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lake alone; wait until the steps that run now have ended."""
        with self.storage.explaining(), self.turns.alone(), self._keeping_open():
            self._refuse_another_place()
            yield

    @contextlib.contextmanager
    def turn(self, of: str) -> Iterator[None]:
        """Be the only one who does what `of` names; wait until another who does it has ended."""
        with self.turns.turn(of):
            yield

    @contextlib.contextmanager
    def _keeping_open(self) -> Iterator[None]:
        """Keep the tables that the block opens; one within another keeps those of the outer."""
        opened = _opened.get()
        if str(self.root) in opened:
            yield
            return
        before = _opened.set({**opened, str(self.root): {}})
        try:
            yield
        finally:
            _opened.reset(before)

    def _refuse_another_place(self) -> None:
        """Raise LakeError for a lake that is somewhere else now, or not all here yet."""
        names = self.storage.names()
        if MOVED in names:
            place = self.storage.read(MOVED).decode().strip()
            raise LakeError(f"the lake at {self.root} was moved: set lake.root to {place}")
        if MOVING in names:
            place = self.storage.read(MOVING).decode().strip()
            raise LakeError(
                f"the lake at {self.root} is a copy that is not whole yet: let move-lake {place} "
                f"{self.root} end, or start it again; until then, the lake is at {place}"
            )

    def replace(
        self,
        table: Table,
        data: Any,
        *,
        nights: Nights,
        within: Mapping[str, str] | None = None,
    ) -> None:
        """Make `data` the whole content of the partitions of these nights, in one transaction.

        Parameters
        ----------
        data
            Anything that streams Arrow (pyarrow, polars, a DuckDB relation) with the table's
            columns in any order; it is not held in memory. Without rows the partitions end empty.
        nights
            A list of nights, or a pair (first, last), both included.
        within
            Narrows the replacement to these values of further partition columns.
        """
        where = [_nights_predicate(nights)]
        where += [f"{column} = {literal(value)}" for column, value in (within or {}).items()]
        self._write(table, data, mode="overwrite", predicate=" AND ".join(where))

    def append(self, table: Table, data: Any, *, after: int | None = None) -> None:
        """Add rows to an append-only table, in one transaction.

        Parameters
        ----------
        data
            As for `replace`.
        after
            The version that the rows were computed from: they become the next one, or none.

        Raises
        ------
        ConcurrentWriteError
            The table is at a later version than `after`; nothing was written.
        """
        if after is None:
            self._write(table, data, mode="append")
            return
        try:
            self._write(
                table,
                data,
                version=after,
                mode="append",
                # Tried again, Delta would put the rows after those of the other run.
                retries=0,
            )
        except CommitFailedError:
            if self.version(table) == after:
                raise
            raise ConcurrentWriteError(table.name) from None

    @contextlib.contextmanager
    def staged(
        self, table: Table, night: dt.date | None, *, of: str, after: int | None = None
    ) -> Iterator[Path | str]:
        """Have a folder for Parquet files that other processes write; they are the table's then.

        When the block ends, its files become the whole content of the night's partition, in one
        transaction. Until then no reader sees them; of a run that is killed they stay where they
        are, and `vacuum` takes them.

        Parameters
        ----------
        night
            None: the files are added to a table without partitions.
        of
            What is written, the same whenever it is written again. Of two runs that write it at the
            same time, one commits.
        after
            As for `append`.

        Yields the folder. A file of a partitioned table goes into its subfolder `dt=YYYY-MM-DD`.

        Raises
        ------
        NotReadyError
            Another run has written the same meanwhile; nothing was written.
        ConcurrentWriteError
            The table is at a later version than `after`; nothing was written.
        """
        delta = self._widened(table) or self._create(table)
        app_id = f"elcrec: {of}"
        written = delta.transaction_version(app_id) or 0
        with self._scratch(table) as folder:
            yield self.storage.at(folder)
            added = [self._taken_over(table, file) for file in self.storage.files(folder)]
            self._commit_files(
                table,
                [action for action in added if action],
                night,
                Transaction(app_id, written + 1),
                after,
            )

    @contextlib.contextmanager
    def scratch(self, table: Table) -> Iterator[Path | str]:
        """Have a folder within a table's for files that other processes write and read.

        It goes with the block; of a run that is killed `vacuum` takes them.
        """
        if self._open(table) is None:
            self._create(table)  # else there would be nothing to vacuum
        with self._scratch(table) as folder:
            yield self.storage.at(folder)

    @contextlib.contextmanager
    def _scratch(self, table: Table) -> Iterator[str]:
        folder = f"{table.name}/{STAGED}{uuid.uuid4().hex}"
        try:
            yield folder
        finally:
            self.storage.remove(folder)

    def _taken_over(self, table: Table, file: File) -> AddAction | None:
        """Move a staged file to its place in the table; None for what holds no rows."""
        name = "/".join(file.path.split("/")[2:])  # below the table's folder and the staged one
        if not name.endswith(".parquet") or name.startswith(("_", ".")):
            return None
        rows = parquet(self.storage, [file.path])
        expected = pl.Schema(table.schema)
        kinds = {
            column: expected[column] for column in expected if column not in table.partition_by
        }
        if dict(rows.collect_schema()) != kinds:
            raise ValueError(f"columns are {rows.collect_schema()}, table {table.name} has {kinds}")
        count = rows.select(pl.len()).collect().item()
        if not count:
            return None
        self.storage.rename(file.path, f"{table.name}/{name}")
        partition = dict(part.split("=", 1) for part in name.split("/")[:-1])
        return AddAction(
            path=name,
            size=file.size,
            partition_values=partition,
            modification_time=int(file.modified.timestamp() * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": count}),
        )

    def _commit_files(
        self,
        table: Table,
        added: list[AddAction],
        night: dt.date | None,
        transaction: Transaction,
        after: int | None,
    ) -> None:
        delta = self._open(table)
        assert delta is not None
        if after is not None and delta.version() != after:
            raise ConcurrentWriteError(table.name)
        refusal = NotReadyError(
            f"another run has written table {table.name} of night {night} meanwhile: "
            "begin once more"
        )
        if (delta.transaction_version(transaction.app_id) or 0) >= transaction.version:
            raise refusal
        others = [one for one in added if night and one.partition_values["dt"] != str(night)]
        if others:
            raise ValueError(f"{others[0].path} is not of night {night}")
        properties = self._commit_properties(delta, retries=None if after is None else 0)
        transactions = [*((properties and properties.app_transactions) or []), transaction]
        try:
            with self.storage.explaining():
                delta.create_write_transaction(
                    [*added],
                    "append" if night is None else "overwrite",
                    delta.schema(),
                    list(table.partition_by),
                    partition_filters=None if night is None else [("dt", "=", str(night))],
                    commit_properties=CommitProperties(
                        max_commit_retries=None if after is None else 0,
                        app_transactions=transactions,
                    ),
                )
        except DeltaError as error:
            self._kept().pop(table.name, None)  # what it knows of the table now is not said
            now = self._open(table)
            assert now is not None
            self._commit_properties(now)  # by a fence, perhaps: then this run has lost its turn
            if isinstance(error, CommitFailedError) and now.version() != delta.version():
                if after is not None:
                    raise ConcurrentWriteError(table.name) from None
                if (now.transaction_version(transaction.app_id) or 0) >= transaction.version:
                    raise refusal from None
            raise

    def version(self, table: Table) -> int:
        """Return the table's current version, for a write after it; it is made if needed."""
        return int((self._widened(table) or self._create(table)).version())

    def identity(self, table: Table) -> str:
        """Return the id that the table was given when it was made; it is made if needed."""
        return str((self._open(table) or self._create(table)).metadata().id)

    def columns(self, table: Table) -> dict[str, str]:
        """Return the columns that the table has, and their types in Delta's words."""
        delta = self._open(table)
        return _types(delta.schema()) if delta else {}

    def nights(self, table: Table) -> list[dt.date]:
        """Return the nights that the table has a partition of, oldest first."""
        delta = self._open(table)
        found = {partition["dt"] for partition in delta.partitions()} if delta else set()
        return sorted(dt.date.fromisoformat(night) for night in found)

    def files(
        self, table: Table, first: dt.date | None = None, last: dt.date | None = None
    ) -> list[str]:
        """Return the Parquet files of the current version for nights first..last (both included).

        The partition columns are in the names of the files' folders, not in the files.
        """
        delta = self._open(table)
        return _files(delta, first, last) if delta else []

    def scan(
        self, table: Table, first: dt.date | None = None, last: dt.date | None = None
    ) -> pl.LazyFrame:
        """Return the rows of nights first..last (both included); no rows if there is no table."""
        # From an empty table of Arrow it would be the same, and load pandas where that is there.
        empty = pl.Schema(table.schema).to_frame()
        delta = self._open(table)
        files = _files(delta, first, last) if delta else []
        if not delta or not files:
            return empty.lazy()
        partitions = {column: empty.schema[column] for column in table.partition_by}
        later = _came_later(delta, table)
        in_files = {name: kind for name, kind in empty.schema.items() if name not in partitions}
        rows = pl.scan_parquet(
            files,
            glob=False,
            hive_partitioning=bool(partitions),
            hive_schema=partitions or None,
            schema=in_files,  # else it is asked of the files: each footer would be read twice
            missing_columns="insert" if later else "raise",
            storage_options=self.storage.polars_options,
        )
        filled = [
            pl.coalesce(name, pl.sql_expr(table.before[name])).cast(empty.schema[name]).alias(name)
            for name in later & set(table.before)
        ]
        return rows.with_columns(filled).select(table.schema.names)

    def view(
        self,
        con: duckdb.DuckDBPyConnection,
        table: Table,
        name: str | None = None,
        first: dt.date | None = None,
        last: dt.date | None = None,
    ) -> None:
        """Create a view of nights first..last (both included) in a DuckDB connection.

        It reads the files that the table has now, whatever is written to the table afterwards. Of
        a store polars reads them for DuckDB, which has no means of its own built in: it asks for
        the columns and rows that it needs, and they come in a stream.
        """
        if self.storage.polars_options is not None:
            con.register(name or table.name, self.scan(table, first, last))
            return
        types = {field.name: _duckdb_type(field.type) for field in table.schema}
        nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in types.items())
        body = f"SELECT {nulls} WHERE false"
        delta = self._open(table)
        files = _files(delta, first, last) if delta else []
        if delta and files:
            hive = {column: types[column] for column in table.partition_by}
            hive_types = ", ".join(f"{literal(column)}: {kind}" for column, kind in hive.items())
            options = (
                f", hive_partitioning = true, hive_types = {{{hive_types}}}"
                if hive
                else ", hive_partitioning = false"
            )
            names = ", ".join(literal(glob.escape(file)) for file in files)
            rows = f"read_parquet([{names}]{options})"
            columns = dict(zip(types, types, strict=True))
            if later := _came_later(delta, table):
                by_name = f"SELECT * FROM read_parquet([{names}]{options}, union_by_name = true)"
                rows = f"({body} UNION ALL BY NAME {by_name})"  # it may be that no file has them
                for column in later & set(table.before):
                    columns[column] = f"coalesce({column}, {table.before[column]}) AS {column}"
            body = f"SELECT {', '.join(columns.values())} FROM {rows}"
        con.execute(f"CREATE OR REPLACE VIEW {identifier(name or table.name)} AS {body}")

    def rows_of(self, table: Table, names: Sequence[str]) -> pl.LazyFrame | None:
        """Return the rows of data files, by their names below the table's folder.

        They may be of any version. Without the columns of partitions; None when a file is gone.
        """
        wanted = [f"{table.name}/{name}" for name in names]
        folders = {path.rpartition("/")[0] for path in wanted}
        there = {file.path for folder in folders for file in self.storage.files(folder)}
        if not there.issuperset(wanted):
            return None
        return parquet(self.storage, wanted)

    def data_files(self, table: Table) -> list[File]:
        """Return the data files below a table's folder, whether a version has them or not."""
        log = f"{table.name}/{LOG}/"
        return [
            file
            for file in self.storage.files(table.name)
            if file.path.endswith(".parquet") and not file.path.startswith(log)
        ]

    def rows_of_file(self, file: File) -> pl.LazyFrame:
        """Return the rows of one data file, without the columns of its partition."""
        return parquet(self.storage, [file.path])

    def vacuum(self, table: Table, hours: int, *, dry_run: bool = False) -> list[File]:
        """Delete data files that no version of the last hours has; return them, or only list them.

        Files that a write left behind when it was killed go too. Held by `alone`, 0 is safe.
        """
        delta = self._open(table)
        if delta is None:
            return []
        with self.storage.explaining():
            # It names files that have gone before, too.
            stale = delta.vacuum(retention_hours=hours, enforce_retention_duration=False, full=True)
        gone = {f"{table.name}/{unquote(name)}" for name in stale}
        found = [file for file in self.storage.files(table.name) if file.path in gone]
        if not dry_run:
            # These very files: a list that is made anew may have those of another run.
            self.storage.delete(file.path for file in found)
        return found

    def purge(self, table: Table) -> int:
        """Delete every version but the current one, data and log; return how many files went.

        The log of a version holds the smallest and largest values of the files it added. To be
        held by `alone`.
        """
        gone = len(self.vacuum(table, 0))
        delta = self._open(table)
        if delta is None:
            return 0
        self._kept().pop(table.name, None)  # the log that it would go on from goes now
        with self.storage.explaining():
            delta.create_checkpoint()
        old = []
        for file in self.log_files(table):
            version = re.match(r"\d{20}(?=\.)", file.path.rpartition("/")[2])
            if version and int(version[0]) < delta.version():
                old.append(file.path)
        self.storage.delete(old)
        return gone + len(old)

    def log_files(self, table: Table) -> list[File]:
        """Return the files of a table's log."""
        return self.storage.files(f"{table.name}/{LOG}")

    def _open(self, table: Table) -> DeltaTable | None:
        """Return the newest version of a table; None if it is not there."""
        opened = self._kept()
        with self.storage.explaining():
            try:
                if table.name in opened:
                    opened[table.name].update_incremental()
                else:
                    opened[table.name] = DeltaTable(
                        self.path(table), storage_options=self.storage.delta_options
                    )
                return opened[table.name]
            except TableNotFoundError:
                return None
            except DeltaError as error:
                if re.search(OF_A_STORE, str(error)):
                    raise
                raise LakeError(
                    f"table {table.name} at {self.path(table)} cannot be read ({error}): restore "
                    "its folder from a backup, or move it away and backfill"
                ) from error

    def _kept(self) -> dict[str, DeltaTable]:
        """Return the tables that this run keeps open; a run that does not hold the lake: none."""
        return _opened.get().get(str(self.root), {})

    def _commit_properties(
        self, delta: DeltaTable, retries: int | None = None
    ) -> CommitProperties | None:
        """Return what a commit upon this snapshot carries: the token of the turns it is made in.

        Raises TurnLostError when another run has taken the turns over (`tasks.lake.leases`).
        """
        holder = self.turns.held()
        if holder is None:
            return None if retries is None else CommitProperties(max_commit_retries=retries)
        holder.refuse(delta.transaction_version(holder.app_id))
        return CommitProperties(
            max_commit_retries=retries,
            app_transactions=[Transaction(holder.app_id, holder.token)],
        )

    def _fence(self, app_id: str, token: int) -> None:
        """Make sure that no commit with a lower token of an app_id can follow, in any table."""
        for table in TABLES.values():
            delta = self._open(table) or self._create(table)
            while (delta.transaction_version(app_id) or 0) < token:
                before, failure = delta.version(), None
                try:
                    delta.create_write_transaction(
                        [],
                        "append",
                        delta.schema(),
                        list(table.partition_by),
                        commit_properties=CommitProperties(
                            app_transactions=[Transaction(app_id, token)]
                        ),
                    )
                except CommitFailedError as error:
                    failure = error
                delta.update_incremental()
                # Another may do the same, or the run itself was just in time: then once more.
                if failure and delta.version() == before:
                    raise failure

    def _write(
        self,
        table: Table,
        data: Any,
        version: int | None = None,
        retries: int | None = None,
        **how: Any,
    ) -> None:
        delta = self._widened(table) or self._create(table)
        if version is not None and delta.version() != version:
            raise ConcurrentWriteError(table.name)
        failures: list[Exception] = []
        try:
            with self.storage.explaining():
                write_deltalake(
                    delta,
                    _conform(data, table.schema, failures),
                    writer_properties=_writer_properties(table),
                    commit_properties=self._commit_properties(delta, retries),
                    **how,
                )
        except Exception as error:
            self._kept().pop(table.name, None)  # what it knows of the table now is not said
            # Delta reports that its input failed, but not how; who computes the rows does.
            if failures:
                raise failures[0] from None
            # By a fence that came between, perhaps: then this run has lost its turn.
            if isinstance(error, DeltaError) and (now := self._open(table)):
                self._commit_properties(now)
            raise

    def _widened(self, table: Table) -> DeltaTable | None:
        """Open a table to write to it; one from before some of its columns gets these first.

        Raises LakeError for a column that is not known here, or of another type.
        """
        delta = self._open(table)
        if delta is None:
            return None
        expected, found = column_types(table.schema), _types(delta.schema())
        for column, kind in found.items():
            if kind != expected.get(column):
                unlike = (
                    f"not {expected[column]}" if column in expected else "which is unknown here"
                )
                raise LakeError(
                    f"table {table.name} at {self.path(table)} has a column {column} of type "
                    f"{kind}, {unlike}: the lake is of another version: use that version, or move "
                    "the lake away and backfill"
                )
        if added := [
            Field(field.name, field.type, nullable=True, metadata={CAME_LATER: True})
            for field in Schema.from_arrow(table.schema).fields
            if field.name not in found
        ]:
            names = ", ".join(field.name for field in added)
            log.info("table %s at %s gets its new columns: %s", table.name, self.path(table), names)
            with self.storage.explaining():
                delta.alter.add_columns(added, commit_properties=self._commit_properties(delta))
        return delta

    def _create(self, table: Table) -> DeltaTable:
        with self.storage.explaining():
            created = DeltaTable.create(
                self.path(table),
                schema=table.schema,
                mode="ignore",
                partition_by=list(table.partition_by) or None,
                configuration=self.storage.table_properties,
                storage_options=self.storage.delta_options,
            )
        self._kept()[table.name] = created
        return created


def _files(delta: DeltaTable, first: dt.date | None, last: dt.date | None) -> list[str]:
    bounds = [("dt", ">=", first), ("dt", "<=", last)]
    limits = [(column, op, value) for column, op, value in bounds if value is not None]
    uris = delta.file_uris(file_pruning_predicate=limits) if limits else delta.file_uris()
    return sorted(unquote(uri) for uri in uris)


def _came_later(delta: DeltaTable, table: Table) -> set[str]:
    """Return the columns that some files may lack, for they are from before them."""
    whole = {field.name for field in delta.schema().fields if CAME_LATER not in field.metadata}
    return set(table.schema.names) - whole


def _writer_properties(table: Table) -> WriterProperties:
    plain = ColumnProperties(dictionary_enabled=False)
    # Properties that say nothing of it compress nothing. ZSTD makes events 2.6 times smaller at no
    # more time to write them.
    return WriterProperties(
        compression="ZSTD",
        max_row_group_size=ROWS_BY_USER if table.by_user else None,
        column_properties=dict.fromkeys(table.many_valued, plain),
    )


def _conform(data: Any, schema: pa.Schema, failures: list[Exception]) -> pa.RecordBatchReader:
    """Stream `data` with the columns of `schema`, in its order and types; note what fails."""
    # A reader of pyarrow's own is read as it is: through another stream its errors lose their type.
    is_reader = isinstance(data, pa.RecordBatchReader)
    reader = data if is_reader else pa.RecordBatchReader.from_stream(data)
    if set(reader.schema.names) != set(schema.names):
        raise ValueError(f"columns are {reader.schema.names}, the table has {schema.names}")

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader:
                columns = [batch.column(field.name).cast(field.type) for field in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        except Exception as error:
            failures.append(error)
            raise

    return pa.RecordBatchReader.from_batches(schema, batches())


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Return the columns of a schema as `Lake.columns` does."""
    return _types(Schema.from_arrow(schema))


def _types(schema: Schema) -> dict[str, str]:
    return {field.name: field.type.to_json().strip('"') for field in schema.fields}


def _nights_predicate(nights: Nights) -> str:
    if isinstance(nights, tuple):
        first, last = nights
        return f"dt >= '{first.isoformat()}' AND dt <= '{last.isoformat()}'"
    return f"dt IN ({_listed(nights)})"


def _listed(nights: Iterable[dt.date]) -> str:
    return ", ".join(f"'{night.isoformat()}'" for night in nights)


def _duckdb_type(kind: pa.DataType) -> str:
    """Name an Arrow type in DuckDB's SQL."""
    if pa.types.is_list(kind):
        return _duckdb_type(kind.value_type) + "[]"
    if pa.types.is_struct(kind):
        fields = [
            f"{kind.field(i).name} {_duckdb_type(kind.field(i).type)}"
            for i in range(kind.num_fields)
        ]
        return f"STRUCT({', '.join(fields)})"
    return {
        pa.string(): "VARCHAR",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.float32(): "FLOAT",
        pa.float64(): "DOUBLE",
        pa.bool_(): "BOOLEAN",
        pa.date32(): "DATE",
        pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
    }[kind]
