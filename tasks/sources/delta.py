"""A Delta table, incrementally by version: a night reads what is new since the night before it.

`source.path` is the table's folder, or its URL in an S3-compatible store. Which files are read, not
which rows, is what is decided here: their rows are told apart as those of any file. Night D reads
the version V that the table has when D runs first. Of V's files it reads

* the new ones: those that version A did not have, A being what the last earlier night P read,
  but for those that the log says to lie wholly outside of the days that D reads;
* of the others those that may hold rows of days after P, up to D: when P ran, events of these days
  may have been there already, and P left them.

Rows of the days up to P in files that A had are not read again: P saw them, and put the late ones
among them where they belong. Without an earlier night, as for the first one, every file is new.

V, A and P are kept in `source_versions`, and decide what D reads when it runs again, today or in a
year: the same files, so the same events, whatever was written to the table since. Late events that
later nights brought stay. `source.reread` makes a night read the table as it is now, all days that
it reads: for when the table was mended. When V is gone (its log cleaned up, its files vacuumed),
that is done anyway, with a warning; when A is gone, all of V's files that may hold rows of these
days are read. Neither loses an event: what others brought already is known by its values.

What "may hold" means is told by the statistics in the table's log. A file without any is read, and
so is every file when the times are text. Files that were only rewritten (OPTIMIZE) are new, too.

Rows that were changed or deleted since A stop the night with a sentence, unless `source.changes`
is "follow": every night then reads the newest version, all days that it reads, and what is gone
from these goes from the lake, too. Never are the old rows and the new ones there side by side.

Files have an order, but it does not outlive a rewriting: as of any table, `row_number` is made of
the values of the row.
"""

import datetime as dt
import json
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError
from pyarrow.fs import FileType

from tasks.errors import SourceError
from tasks.lake import Lake, tables
from tasks.settings import ReadSettings, Settings, SourceSettings
from tasks.sources import Versions
from tasks.sources.places import Address
from tasks.sources.rows import (
    Rows,
    as_json,
    by_position,
    chosen,
    column_of,
    numbered_by_content,
)
from tasks.sources.units import END_OF_TIME, START_OF_TIME, US_PER_UNIT
from tasks.sources.views import view_rows

log = logging.getLogger(__name__)

DAY = dt.timedelta(days=1)
ASKED_AT_ONCE = 16  # files whether they are there: a store answers each in some milliseconds


class Delta:
    """The source `delta`: `source.path` is the folder or the URL of a Delta table."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.source
        self.lake = Lake.of(settings)
        self.address = Address(settings.source) if "://" in settings.source.path else None

    def __str__(self) -> str:
        return f"Delta table {self.settings.path}"

    @property
    def name(self) -> str:
        """The table as `source` of its events: the name of its folder."""
        return self.settings.path.rstrip("/").rpartition("/")[2]

    def parts(self, first: dt.datetime | None, end: dt.datetime) -> list["Snapshot"]:
        """Return the table's files that the night reads as the one part.

        Raises
        ------
        SourceError
            There is no such table, it cannot be read without a feature that is unknown here, a
            needed column is missing, or its files are gone.
        """
        if not self.settings.path:
            raise SourceError(
                "source.path is not set: name the folder or the URL of a Delta table, "
                "for example ELCREC_SOURCE__PATH=/data/events"
            )
        with _explaining(self.address):
            if "time" not in self.settings.roles:  # a catalogue
                return [self._whole()]
            return [self._snapshot(first, end)]

    def _whole(self) -> "Snapshot":
        """Return all files of the newest version: each night reads a catalogue whole."""
        now = self._table()
        assert now is not None
        files = self._dataset(now)
        self._refuse_links(files.files)
        versions = Versions(str(now.metadata().id), now.version(), None, None)
        return Snapshot(
            self.name, str(self), self.settings, files, versions, self.address, mirrors=False
        )

    def _snapshot(self, first: dt.datetime | None, end: dt.datetime) -> "Snapshot":
        now = self._table()
        assert now is not None
        versions = self._versions(now, first, (end - DAY).date())
        then = now if versions.version == now.version() else self._table(versions.version)
        files = then and self._files(then, versions, first, end)
        if files is None and versions.version != now.version():
            log.warning(
                "version %d of %s, which this night read before, is gone: it reads version %d, "
                "which the table has now",
                versions.version,
                self,
                now.version(),
            )
            versions = replace(versions, version=now.version(), after=None, since=None)
            files = self._files(now, versions, first, end)
        if files is None:
            raise SourceError(
                f"{self} lacks data files of its newest version {now.version()}: restore them, or "
                "restore an earlier version of the table"
            )
        return Snapshot(
            self.name, str(self), self.settings, files, versions, self.address, self._follows
        )

    def _table(self, version: int | None = None) -> DeltaTable | None:
        """Open the table, at a version if one is given; None when that version is gone."""
        try:
            options = self.address.delta_options() if self.address else None
            return DeltaTable(self.settings.path, version=version, storage_options=options)
        except TableNotFoundError:
            if version is not None:
                return None
            raise SourceError(
                f"source.path is {self.settings.path}, which is no Delta table: correct the path, "
                "or mount it"
            ) from None
        except DeltaError as error:
            if version is not None:
                return None
            raise SourceError(
                f"{self} cannot be read ({_first_line(error)}): restore its _delta_log"
            ) from error

    def _versions(self, now: DeltaTable, first: dt.datetime | None, night: dt.date) -> Versions:
        table_id = str(now.metadata().id)
        newest = Versions(table_id, now.version(), None, None)
        read = self.lake.scan(tables.SOURCE_VERSIONS, last=night).sort("dt").collect()
        rows = [
            row
            for row in read.to_dicts()
            # A table that was made anew at the same place counts its versions from 0 again.
            if (row["source"], row["table_id"]) == (self.name, table_id)
        ]
        if self.settings.reread or not rows:
            return newest
        last = rows[-1]
        if last["dt"] < night or self._follows:
            self._refuse_changes(last, now.version())
        if self._follows:
            return newest
        if last["dt"] == night:
            return Versions(table_id, last["version"], last["after_version"], last["since"])
        if first is None:
            return newest
        return replace(newest, after=last["version"], since=last["dt"] + DAY)

    @property
    def _follows(self) -> bool:
        return self.settings.changes == "follow"

    def _refuse_changes(self, last: dict[str, Any], newest: int) -> None:
        """Raise SourceError when rows were changed or deleted since a night, if none may be."""
        for version in range(last["version"] + 1, newest + 1):
            actions = [json.loads(line) for line in self._log_of(version).splitlines() if line]
            if not any(one.get("remove", {}).get("dataChange") for one in actions):
                continue
            what: dict[str, Any] = next(
                (one["commitInfo"] for one in actions if "commitInfo" in one), {}
            )
            name = what.get("operation", "a change")
            if self._follows:
                log.warning(
                    "version %d of %s changed rows (%s): the days that this night reads follow it",
                    version,
                    self,
                    name,
                )
                continue
            raise SourceError(
                f"version {version} of {self} changed or deleted rows ({name}), after night "
                f"{last['dt']} read version {last['version']}: to take that over for the days "
                'within ingest.late_days, set source.changes = "follow", or restore the table'
            )

    def _log_of(self, version: int) -> str:
        """Return what a version changed, a line of JSON each; empty when that is cleaned up."""
        name = f"{version:020}.json"
        if not self.address:
            file = Path(self.settings.path) / "_delta_log" / name
            return file.read_text("utf-8") if file.is_file() else ""
        import obstore

        key = "/".join([*self.address.parts, "_delta_log", name])
        try:
            return bytes(obstore.get(self.address.store(), key).bytes()).decode()
        except FileNotFoundError:
            return ""

    def _files(
        self, table: DeltaTable, versions: Versions, first: dt.datetime | None, end: dt.datetime
    ) -> ds.FileSystemDataset | None:
        """Return the files that a night reads of a version; None when one of them is gone."""
        dataset = self._dataset(table)
        time = chosen(self, dataset.schema.names, self.settings)["time"]
        days = _Days.of(time, dataset.schema, self.settings)
        before = None if versions.after is None else self._table(versions.after)
        known = set(self._dataset(before).files) if before else set()
        read = set()
        for wanted in (days.between(first, end), *days.odd()):
            read |= {file.path for file in dataset.get_fragments(filter=wanted)} - known
        if known:
            starts = [first] if first else []
            if versions.since:
                starts.append(dt.datetime.combine(versions.since, dt.time(), dt.UTC))
            wanted = days.between(max(starts, default=None), end)
            read |= {file.path for file in dataset.get_fragments(filter=wanted)} & known
        files = sorted(
            (file for file in dataset.get_fragments() if file.path in read),
            key=lambda file: str(file.path),
        )
        log.info(
            "%s: version %d%s, %d of %d files",
            self,
            versions.version,
            "" if versions.after is None else f" after version {versions.after}",
            len(files),
            len(dataset.files),
        )
        self._refuse_links(file.path for file in files)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            there = list(pool.map(dataset.filesystem.get_file_info, (f.path for f in files)))
        if any(info.type == FileType.NotFound for info in there):
            return None
        return ds.FileSystemDataset(files, dataset.schema, dataset.format, dataset.filesystem)

    def _refuse_links(self, files: Iterable[str]) -> None:
        """Raise SourceError for a file that leads out of the table's folder."""
        if self.address:
            return
        root = Path(self.settings.path)
        for file in files:
            if not (real := (root / file).resolve()).is_relative_to(root.resolve()):
                raise SourceError(
                    f"{root / file} leads to {real}, outside of {root}: put the file itself there"
                )

    def _dataset(self, table: DeltaTable) -> ds.FileSystemDataset:
        mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none")
        try:
            if mapped != "none":
                raise DeltaProtocolError(f"column mapping by {mapped}")
            return table.to_pyarrow_dataset()
        except DeltaProtocolError as error:
            raise SourceError(
                f"{self} needs a feature of Delta that is not known here ({_first_line(error)}): "
                "write a copy without it, or turn it off (of deletion vectors: "
                "delta.enableDeletionVectors = false, then REORG TABLE ... APPLY (PURGE))"
            ) from None


@dataclass(frozen=True)
class Snapshot:
    """Some files of one version of a Delta table."""

    name: str
    title: str
    settings: ReadSettings
    files: ds.FileSystemDataset
    versions: Versions
    address: Address | None
    mirrors: bool  # all rows of the days that the night reads are there, and no others are
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return self.title

    @contextmanager
    def open(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Create the view `source_rows` over the files, read anew by each query.

        Of a store it is streamed: some batches of a few files are in memory at a time.

        Raises SourceError when a file is no readable Parquet.
        """
        con.register("delta_rows", self.files)
        described = con.execute("DESCRIBE SELECT * FROM delta_rows").fetchall()
        types = {name: kind for name, kind, *_ in described}
        reader, columns = by_position("delta_rows", list(types))
        used = list(columns)
        if isinstance(self.settings, SourceSettings):
            wanted = chosen(self, columns, self.settings).values()
            used = sorted({column_of(columns, name) for name in wanted})
        rows = Rows(
            columns,
            reader=reader,
            row_number=numbered_by_content([f"{columns[name]}::VARCHAR" for name in used]),
            raw=as_json(columns),
            types=types,
            ordered=False,
        )
        query = view_rows(self, self.settings, rows)
        con.execute(f"CREATE OR REPLACE TEMP VIEW source_rows AS {query}")
        try:
            with _explaining(self.address, duckdb.Error):
                yield
        except (duckdb.InvalidInputException, duckdb.IOException, OSError) as error:
            reason = re.search(r"Parquet .*?(?=\. |\n|$)", str(error))
            if reason is None:
                raise
            raise SourceError(
                f"{self} has a data file that cannot be read ({reason[0]}): restore the file, or "
                "an earlier version of the table"
            ) from error
        finally:
            con.unregister("delta_rows")


@dataclass(frozen=True)
class _Days:
    """The time column as Arrow filters that the statistics of files are held against."""

    name: str
    type: pa.DataType  # null: nothing is known of its values

    @classmethod
    def of(cls, name: str, schema: pa.Schema, settings: SourceSettings) -> "_Days":
        """Return the column of this name; of a path, a format or another zone nothing is known."""
        kind = schema.field(name).type if name in schema.names else pa.null()
        local = settings.time_zone != "UTC" and not getattr(kind, "tz", None)
        return cls(name, pa.null() if local or settings.time_format else kind)

    def between(self, first: dt.datetime | None, end: dt.datetime) -> pc.Expression:
        """Tell a time from `first` (None: any) to before `end`.

        True for any time when these are text; a number is held against each unit.
        """
        time, found = pc.field(self.name), []
        for unit in US_PER_UNIT if self._is_number else ("iso",):
            low, high = first and self._at(first, unit), self._at(end, unit)
            if high is not None:
                until = time < high
                found.append(until if low is None else (time >= low) & until)
        whether = pc.scalar(True) if not found else found[0]
        for more in found[1:]:
            whether |= more
        return whether

    def odd(self) -> list[pc.Expression]:
        """Tell the times that no night asks for, so that their rows go to quarantine."""
        time = pc.field(self.name)
        if not self._is_clock:
            return [pc.scalar(True)]
        ends = self._at(START_OF_TIME, "iso"), self._at(END_OF_TIME, "iso")
        return [time.is_null(), time < ends[0], time >= ends[1]]

    @property
    def _is_clock(self) -> bool:
        return bool(pa.types.is_timestamp(self.type) or pa.types.is_date(self.type))

    @property
    def _is_number(self) -> bool:
        return bool(pa.types.is_integer(self.type) or pa.types.is_floating(self.type))

    def _at(self, moment: dt.datetime, unit: str) -> pa.Scalar | None:
        """Return a moment as a value of the column; None when it has none."""
        if self._is_clock:
            if pa.types.is_date(self.type):
                return pa.scalar(moment.date(), self.type)
            return pa.scalar(moment if self.type.tz else moment.replace(tzinfo=None), self.type)
        if not self._is_number or not US_PER_UNIT[unit]:
            return None
        number = (moment - START_OF_TIME) // dt.timedelta(microseconds=1) / US_PER_UNIT[unit]
        try:
            return pa.scalar(number).cast(self.type)
        except pa.ArrowInvalid:  # too large for the column: no row has it
            return None


def _explaining(address: Address | None, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Turn what a store says into a sentence; of a folder errors come as they are."""
    return address.explaining(OSError, DeltaError, *kinds) if address else nullcontext()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
