"""Event files of any supported format, of this machine or an object store.

Text of every format is read in one way (`tasks.sources.text`). The view over a Parquet file
is lazy: DuckDB reads it anew, in parallel and in bounded memory, each time it is queried.
"""

import csv
import datetime as dt
import glob
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import NightError, NotReadyError, SourceError
from tasks.lake.duck import literal
from tasks.settings import CatalogueSettings, ReadSettings, Settings
from tasks.sources.lines import COMPRESS, SUFFIXES, TO_PARQUET, refuse_no_parquet
from tasks.sources.places import START, Place, place_of
from tasks.sources.rows import Rows, as_json, by_position, columns_of, refuse_names_twice
from tasks.sources.text import IDS, READERS, SourceFile, separator_of
from tasks.sources.views import view_rows

log = logging.getLogger(__name__)

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "recbole",
    ".txt": "text",  # a sequence file or a table: its content tells
}
# The formats of a catalogue: RecBole has an ending of its own for it, and items no sequences.
ITEM_FORMATS = {name: kind for name, kind in FORMATS.items() if name != ".inter"} | {
    ".item": "recbole",
    ".txt": "csv",
}
# Names of files that are no event files, and what to do with them.
KINDS = {
    **dict.fromkeys([".xlsx", ".xls", ".xlsm", ".ods"], "a spreadsheet: save it as CSV"),
    **dict.fromkeys([".zip", ".7z", ".rar", ".tar", ".tgz"], "an archive: unpack it"),
    **dict.fromkeys([".xz", ".lz4", ".lzo", ".br", ".sz", ".z"], f"compressed: {COMPRESS}"),
    **dict.fromkeys([".avro", ".orc", ".arrow", ".feather", ".h5"], f"not read: {TO_PARQUET}"),
    **dict.fromkeys([".db", ".sqlite", ".sqlite3", ".duckdb"], "a database: export the table"),
    ".json": 'read as JSON only with source.format = "json"',
}
# What a word looks like that is a time and not an id: seconds to nanoseconds of 1973 to 2199, or a
# date of these years.
TIME = r"[1-6]\d{8,9}(\d{3}){0,3}|(19[7-9]|20\d|21\d)\d-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
NAMED = 20  # files that are left out, in messages


class Files:
    """The source `files`: `source.path` is a folder, a file or a glob, or the URL of one."""

    def __init__(self, settings: Settings) -> None:
        self.settings: ReadSettings = settings.source
        self.ingest = settings.ingest
        self.is_catalogue = isinstance(self.settings, CatalogueSettings)
        self.formats = ITEM_FORMATS if self.is_catalogue else FORMATS
        self.place = place_of(settings)
        self.left_out: list[str] = []  # files that are none of events, once `parts` has listed them

    def __str__(self) -> str:
        return self.settings.path

    def parts(self, first: dt.datetime | None, end: dt.datetime) -> list["FilePart"]:
        """List the event files that may have rows of these times.

        Of a file below a folder of one day (`source.day_folders`) the times are known before it is
        read, but for a day: where the folders were made the date may have been another. Which times
        any other has is not known.
        """
        found = self.place.find()
        kinds = {name: self._format(name) for name, _ in found}
        if set(kinds.values()) - {"sequences", None}:
            # A file of ids and one of rows are not of one log.
            kinds = {
                name: None if kind == "sequences" and self.settings.format == "auto" else kind
                for name, kind in kinds.items()
            }
        parts = [
            FilePart(self.place, name, kind, self.settings, modified)
            for name, modified in found
            if (kind := kinds[name])
        ]
        passed = self.place.passed
        self.left_out = sorted([*(name for name, kind in kinds.items() if kind is None), *passed])
        told = [
            f"{name}, {what}" if (what := passed.get(name) or _what_is(name)) else name
            for name in self.left_out[:NAMED]
        ]
        named = "; ".join(told) + "; ..." * (len(self.left_out) > NAMED)
        if not parts:
            self._refuse_unknown_ending([name for name, _ in found])
            raise SourceError(
                f"{self} has no {self._kind}{f' (but {named})' if named else ''}: "
                f"known are {', '.join(self.formats)}, each text also with {', '.join(SUFFIXES)}; "
                "for other names set source.format"
            )
        if self.left_out:
            log.warning(
                "%d files in %s are left out, for by name or content they are no %s: %s; "
                "to read files of any name set %s.format",
                len(self.left_out),
                self,
                self._kind,
                named,
                "catalogue" if self.is_catalogue else "source",
            )
        if self.is_catalogue:
            read = self._newest_day(parts, end.date() - dt.timedelta(days=1))
        else:
            read = self._of_days(parts, first and first.date() - dt.timedelta(days=1), end.date())
        return self._settled(read, end.date())

    @property
    def _kind(self) -> str:
        return "files of items" if self.is_catalogue else "event files"

    def _refuse_unknown_ending(self, names: list[str]) -> None:
        """Say of a single file that is named that its ending is the fault."""
        if len(names) != 1 or PurePosixPath(names[0]).name != PurePosixPath(str(self)).name:
            return
        suffixes = PurePosixPath(names[0]).suffixes
        packed = suffixes.pop() if suffixes and suffixes[-1].lower() in SUFFIXES else ""
        if suffixes and suffixes[-1].lower() in self.formats:
            return  # its content is the fault
        if what := _what_is(names[0]):
            raise SourceError(f"{self} is {what}")
        known = suffixes[-1] + packed if suffixes else packed
        ending = f"the ending {known}, which is unknown" if known else "no ending"
        raise SourceError(
            f"{self} has {ending}: known are {', '.join(self.formats)}, each text also with "
            f"{', '.join(SUFFIXES)}; rename the file, or say what it is with source.format"
        )

    def _format(self, name: str) -> str | None:
        """Tell the format of a file by its name, of a .txt by its content; None: it is left out."""
        if self.settings.format != "auto":
            return self.settings.format
        suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
        if suffixes and suffixes[-1] in SUFFIXES:
            suffixes.pop()
        kind = self.formats.get(suffixes[-1]) if suffixes else None
        return self._text_format(name) if kind == "text" else kind

    def _text_format(self, name: str) -> str | None:
        """Tell a sequence file, whose lines are ids, from a table and from prose."""
        if self.settings.columns or self.settings.separator != "auto":
            return "csv"
        start = self.place.start(name)
        text = start.decode("utf-8", "replace").replace("\ufeff", "").splitlines()
        # The last line may go on.
        lines = [line for line in text[: -1 if len(start) >= START and text[1:] else None] if line]
        if not lines:
            return "sequences"  # which then says that it is empty
        if all(re.fullmatch(IDS, line) for line in lines):
            self._refuse_times_as_items(name, [line.split() for line in lines])
            return "sequences"
        names = set(next(csv.reader([lines[0]], delimiter=separator_of(lines[0]))))
        known_by = (columns_of(self.settings, role) for role in self.settings.known_by)
        if names & {name for wanted in known_by for name in wanted}:
            return "csv"
        return "csv" if all("\t" in line for line in lines) else None

    def _refuse_times_as_items(self, name: str, lines: list[list[str]]) -> None:
        """Raise SourceError for a table of users, items and times, which looks like one of ids."""
        width = len(lines[0])
        if width < 3 or any(len(line) != width for line in lines):
            return
        for n in range(1, width):
            if all(re.fullmatch(TIME, line[n]) for line in lines):
                raise SourceError(
                    f"{self.place.shown(name)} may be a table whose column {n + 1} is the time, "
                    f'such as {lines[0][n]}: if it is, set source.format = "csv", '
                    'source.separator = " " and source.columns to the names of its columns; if it '
                    'has ids only, set source.format = "sequences"'
                )

    def _of_days(
        self, parts: list["FilePart"], first: dt.date | None, last: dt.date
    ) -> list["FilePart"]:
        """Leave out the files of folders of other days; those in no such folder stay."""
        read = [
            part
            for part in parts
            if not (day := part.day) or ((first is None or first <= day) and day <= last)
        ]
        if not read:
            known = sorted(day for part in parts if (day := part.day))
            key = self.settings.day_folders
            wanted = f"from {key}={first} to {last}" if first else f"up to {key}={last}"
            raise NightError(
                f"{self} has no folder {wanted}, only {key}={known[0]} to {known[-1]}: deliver the "
                "night, choose another, or read all folders every night with "
                'source.day_folders = ""'
            )
        if len(read) < len(parts):
            log.info("%d of %d files are in folders of the night", len(read), len(parts))
        return read

    def _newest_day(self, parts: list["FilePart"], last: dt.date) -> list["FilePart"]:
        """Leave out all folders of days but the newest until a day: each has a whole catalogue."""
        days = {part.day for part in parts if part.day}
        newest = max((day for day in days if day <= last), default=None)
        read = [part for part in parts if part.day in (None, newest)]
        if not read:
            key = self.settings.day_folders
            raise NightError(
                f"{self} has no folder up to {key}={last}, the first is {key}={min(days)}: deliver "
                "one, choose a later night, or read all folders every night with "
                'source.day_folders = ""'
            )
        return read

    def _settled(self, parts: list["FilePart"], day_after: dt.date) -> list["FilePart"]:
        """Wait for files that may still be written; those of the day after come with its night.

        Raises
        ------
        NotReadyError
            A file of the night was changed within the last `ingest.settle_minutes`.
        """
        pause = dt.timedelta(minutes=self.ingest.settle_minutes)
        now = dt.datetime.now(dt.UTC)
        # On either side: a clock that is ahead must not hold up the night until it is caught up.
        fresh = [part for part in parts if abs(now - part.modified) < pause]
        # What they have of this night is late then.
        later = [part for part in fresh if part.day == day_after and self.ingest.late_days]
        if waited := [part for part in fresh if part not in later]:
            newest = max(waited, key=lambda part: part.modified)
            raise NotReadyError(
                f"{newest} was changed at {newest.modified:%H:%M:%S} UTC and may still be written: "
                f"the step is tried again, and reads it once nothing has changed for "
                f"{self.ingest.settle_minutes:g} minutes (ingest.settle_minutes)"
            )
        return [part for part in parts if part not in later]


@dataclass(frozen=True)
class FilePart:
    """A file of events at its place."""

    place: Place
    path: str  # below the place
    format: str
    settings: ReadSettings
    modified: dt.datetime
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    versions = None

    @property
    def day(self) -> dt.date | None:
        """The day of the innermost folder day_folders=YYYY-MM-DD that it lies in."""
        key = self.settings.day_folders
        for folder in reversed(PurePosixPath(self.path).parts[:-1]):
            if key and re.fullmatch(re.escape(key) + r"=\d{4}-\d\d-\d\d", folder):
                with suppress(ValueError):
                    return dt.date.fromisoformat(folder[len(key) + 1 :])
        return None

    @property
    def name(self) -> str:
        """Its path; readers of events see by it that times are made up."""
        return f"{self.path} (synthetic times)" if self.format == "sequences" else self.path

    def __str__(self) -> str:
        return self.place.shown(self.path)

    @contextmanager
    def open(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Create the view `source_rows` over the file.

        Raises
        ------
        SourceError
            The file is empty, cut short, not of its format, not UTF-8, or lacks a needed column.
        """
        with self.place.fetched(self.path) as path:
            file = SourceFile(path, str(self), self.format, self._folders(), self.columns)
            if path.stat().st_size == 0:
                raise SourceError(f"{file} is empty: remove it, or deliver it again")
            if self.format == "parquet":
                refuse_no_parquet(path, str(file))
            with _explaining(file):
                if self.format == "parquet":
                    rows = _parquet(con, file, self.settings)
                    con.execute(f"CREATE OR REPLACE TEMP VIEW source_rows AS {rows}")
                    yield
                    return
                with READERS[self.format](con, file, self.settings):
                    yield

    def _folders(self) -> dict[str, str | None]:
        """Return the columns that stand in its path, as in event_type=view/part-0.parquet."""
        found: dict[str, str | None] = {}
        roles = self.settings.roles
        wanted = {name for role in roles for name in columns_of(self.settings, role)}
        for folder in PurePosixPath(self.path).parts[:-1]:
            name, equals, value = folder.partition("=")
            if not equals or (name := unquote(name)) not in wanted:
                continue
            try:
                read = None if value == NO_VALUE else unquote(value, errors="strict")
            except UnicodeDecodeError:
                raise SourceError(
                    f"{self} lies in the folder {folder}, whose value is no text in UTF-8: rename "
                    "the folder"
                ) from None
            if found.setdefault(name, read) != read:
                raise SourceError(
                    f"{self} lies in two folders of {name}=: rename one of them, or leave the name "
                    "out of the columns in the settings"
                )
        return found


def _what_is(name: str) -> str:
    """Say what a file of a known other kind is, by its name; empty: it is not known."""
    return KINDS.get(PurePosixPath(name).suffix.lower(), "")


@contextmanager
def _explaining(file: SourceFile) -> Iterator[None]:
    """Turn what Arrow and DuckDB say about a bad file into a sentence for the person on call."""
    try:
        yield
    except (duckdb.InvalidInputException, duckdb.IOException, OSError) as error:
        raise _explained(file, str(error)) or error from error


def _parquet(con: duckdb.DuckDBPyConnection, file: SourceFile, source: ReadSettings) -> str:
    path = literal(glob.escape(str(file.path)))
    reader = f"read_parquet({path}, hive_partitioning = false"
    described = con.execute(f"DESCRIBE SELECT * FROM {reader})").fetchall()
    schema = pq.read_schema(file.path)
    names = schema.names  # DuckDB gives another to one that differs from another in capitals only
    refuse_names_twice(file, names)
    types = {name: kind for name, (_, kind, *_) in zip(names, described, strict=True)}
    _refuse_fields_twice(file, schema, source)
    types |= {name: "FLOAT16" for column in schema for name in _two_bytes(column.name, column.type)}
    numbered = f"{reader}, file_row_number = true)"
    if "file_row_number" in map(str.lower, names):
        # DuckDB refuses to number the rows of a file with a column of that name. Its way is the
        # faster one: a window goes through the file in order, in one thread.
        numbered = f"(SELECT *, row_number() OVER () - 1 FROM {reader}))"
    placed, columns = by_position(numbered, names, "place")
    rows = Rows(
        columns,
        reader=placed,
        row_number="place + 1",
        raw=as_json(columns),
        types=types,
        folders=file.folders,
    )
    return view_rows(file, source, rows)


def _refuse_fields_twice(file: SourceFile, schema: pa.Schema, source: ReadSettings) -> None:
    """Raise SourceError when a path in the settings leads to one of two fields of a name."""
    named = [name for role in source.roles for name in columns_of(source, role)]
    for path in (path for column in schema for path in _twice(column.name, column.type)):
        if any(name == path or name.startswith((f"{path}.", f"{path}[")) for name in named):
            raise SourceError(f"{file} has two fields named {path}: rename one of them")


def _twice(name: str, kind: pa.DataType) -> Iterator[str]:
    """Yield the paths of fields that a struct has twice: DuckDB renames the second one."""
    if pa.types.is_struct(kind):
        names = [inner.name for inner in kind]
        for inner in kind:
            if names.count(inner.name) > 1:
                yield f"{name}.{inner.name}"
            yield from _twice(f"{name}.{inner.name}", inner.type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _twice(f"{name}[]", kind.value_type)


def _two_bytes(name: str, kind: pa.DataType) -> Iterator[str]:
    """Yield the paths that lead to floats of two bytes in a column: DuckDB names them FLOAT."""
    if pa.types.is_float16(kind):
        yield name
    elif pa.types.is_struct(kind):
        for inner in kind:
            yield from _two_bytes(f"{name}.{inner.name}", inner.type)


def _explained(file: SourceFile, message: str) -> SourceError | None:
    """Say in one sentence what is wrong with a file; None if it is not the file."""
    if file.format == "parquet":
        reason = message.splitlines()[0].rstrip(".")
        return SourceError(f"{file} is no readable Parquet file ({reason}): deliver it again")
    if "Truncated compressed" in message:
        return SourceError(f"{file} is cut short: deliver it again")
    if re.search("(?i)gzip|zlib|zstd|bz2|inflate|decompress", message):
        return SourceError(f"{file} is damaged, for it cannot be unpacked: deliver it again")
    return None
