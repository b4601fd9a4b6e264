"""Event files of any supported format, of this machine or an object store.

The view over a file is lazy: DuckDB reads it anew, in parallel and in bounded memory, each time it
is queried.
"""

import csv
import datetime as dt
import glob
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.errors import NightError, NotReadyError, SourceError
from tasks.lake import duck
from tasks.lake.duck import identifier, literal
from tasks.settings import Settings, SourceSettings
from tasks.sources.places import Place, place_of
from tasks.sources.rows import as_json, needed, source_rows
from tasks.sources.units import SYNTHETIC_EPOCH

log = logging.getLogger(__name__)

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "recbole",
    ".txt": "sequences",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
SEPARATORS = (",", "\t", ";", "|")
LONGEST_LINE = 16 * 1024 * 1024  # bytes; a sequence file has one line a user
SAMPLED_LINES = 1000  # of a JSON lines file, to see which keys are usual
NEEDED = ("user_columns", "item_columns", "time_columns")

Lines = npt.NDArray[np.int64]  # line numbers, rising
NO_LINES: Lines = np.array([], np.int64)


class Files:
    """The source `files`: `source.path` is a folder, a file or a glob, or the URL of one."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ingest = settings.source, settings.ingest
        self.place = place_of(settings)

    def __str__(self) -> str:
        return self.settings.path

    def parts(self, first: dt.datetime | None, end: dt.datetime) -> list["FilePart"]:
        """List the event files that may have rows of these times.

        Of a file below a folder of one day (`source.day_folders`) the times are known before it is
        read, but for a day: where the folders were made the date may have been another. Which times
        any other has is not known.
        """
        found = self.place.find()
        parts = [
            FilePart(self.place, name, kind, self.settings, modified)
            for name, modified in found
            if (kind := _format(name, self.settings.format))
        ]
        if not parts:
            self._refuse_unknown_ending([name for name, _ in found])
            names = ", ".join(PurePosixPath(name).name for name, _ in found[:5])
            raise SourceError(
                f"{self} has no event files{f' (but {names})' if names else ''}: "
                f"known are {', '.join(FORMATS)}, each text also with .gz or .zst; "
                "for other names set source.format"
            )
        if len(parts) < len(found):
            log.info("%d files in %s are no event files by name", len(found) - len(parts), self)
        read = self._of_days(parts, first and first.date() - dt.timedelta(days=1), end.date())
        return self._settled(read, end.date())

    def _refuse_unknown_ending(self, names: list[str]) -> None:
        """Say of a single file that is named that its ending is the fault."""
        if len(names) != 1 or PurePosixPath(names[0]).name != PurePosixPath(str(self)).name:
            return
        endings = "".join(PurePosixPath(names[0]).suffixes[-2:])
        ending = f"the ending {endings}, which is unknown" if endings else "no ending"
        raise SourceError(
            f"{self} has {ending}: known are {', '.join(FORMATS)}, each text also with "
            f"{' or '.join(COMPRESSIONS)}; rename the file, or say what it is with source.format"
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
    settings: SourceSettings
    modified: dt.datetime
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
            file = SourceFile(path, str(self), self.format)
            if path.stat().st_size == 0:
                raise SourceError(f"{file} is empty: remove it, or deliver it again")
            with _explaining(file):
                if file.compression == "zstd":
                    _refuse_cut_zstd(file)
                rows = {
                    "parquet": _parquet,
                    "csv": _csv,
                    "recbole": _csv,
                    "jsonl": _jsonl,
                    "sequences": _sequences,
                }[self.format](con, file, self.settings)
                con.execute(f"CREATE OR REPLACE TEMP VIEW source_rows AS {rows}")
                yield


@dataclass(frozen=True)
class SourceFile:
    """A file of events on this machine."""

    path: Path
    shown: str  # how messages name it
    format: str

    @property
    def compression(self) -> str | None:
        """Name the compression as Arrow does."""
        return COMPRESSIONS.get(self.path.suffix.lower())

    def __str__(self) -> str:
        return self.shown


def _format(name: str, wanted: str) -> str | None:
    if wanted != "auto":
        return wanted
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


@contextmanager
def _explaining(file: SourceFile) -> Iterator[None]:
    """Turn what DuckDB and Arrow say about a bad file into a sentence for the person on call."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise SourceError(_not_utf8(file)) from error
    except (duckdb.InvalidInputException, duckdb.IOException, OSError) as error:
        raise _explained(file, str(error)) or error from error


def _parquet(con: duckdb.DuckDBPyConnection, file: SourceFile, source: SourceSettings) -> str:
    reader = f"read_parquet({_path(file)}, hive_partitioning = false"
    described = con.execute(f"DESCRIBE SELECT * FROM {reader})").fetchall()
    types = {name: kind for name, kind, *_ in described}
    columns = {name: identifier(name) for name in types}
    # Named apart: a file may have a column of its own by the name file_row_number.
    numbered = f"{reader}, file_row_number = true)"
    return source_rows(
        file,
        source,
        columns,
        reader=numbered,
        row_number="file_row_number + 1",
        raw=as_json(columns),
        types=types,
    )


def _csv(con: duckdb.DuckDBPyConnection, file: SourceFile, source: SourceSettings) -> str:
    header = _first_line(file)
    if file.format == "recbole":
        separator, quote = "\t", ""
        names = [name.partition(":")[0] for name in header.split("\t")]
    else:
        separator, quote = _separator(header, source.separator), '"'
        names = next(csv.reader([header], delimiter=separator))
    # DuckDB is told positions; the names stay in Python but for the JSON of a rejected row.
    positions = [f"c{i}" for i in range(len(names))]
    columns = dict(zip(names, positions, strict=True))
    if len(columns) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{file} has two columns named {twice}: rename one in its first line")
    reader = _text_reader(file, source, positions, separator, quote, header=True)
    return source_rows(
        file,
        source,
        columns,
        reader=_numbered(con, file, source, reader, quote, header=True),
        row_number="line_number",
        raw=as_json(columns),
    )


def _jsonl(con: duckdb.DuckDBPyConnection, file: SourceFile, source: SourceSettings) -> str:
    lines = _lines(con, file, source)
    sampled = con.execute(
        "SELECT list_distinct(flatten(list(json_keys(line)))) "
        f"FROM (SELECT line FROM {lines} LIMIT {SAMPLED_LINES}) WHERE json_valid(line)"
    ).fetchone()
    if not sampled or not sampled[0]:
        raise SourceError(
            f"{file} has no JSON object from line 1 on: correct it, or set source.format"
        )
    # A line that is no JSON gets no object, so that looking into it does not fail.
    objects = f"(SELECT *, CASE WHEN json_valid(line) THEN line::JSON END AS object FROM {lines})"
    # Each line has keys of its own: what is looked for is not what the first lines happen to have.
    columns, roles = {}, {}
    for role in SourceSettings.model_fields:
        if not role.endswith("_columns"):
            continue
        wanted = getattr(source, role)
        columns[role] = _first_json_value(wanted, sampled[0])
        roles[role] = (role,) if wanted else ()
        if role == "user_columns":
            wanted += source.session_columns  # either does
        if role in NEEDED and not set(wanted) & set(sampled[0]):
            value = _first_json_value(wanted, sampled[0])
            later = f"SELECT 1 FROM {objects} WHERE {value} IS NOT NULL LIMIT 1"
            if not con.execute(later).fetchall():
                needed(file, dict.fromkeys(sorted(sampled[0]), ""), wanted, f"source.{role}")
    return source_rows(
        file,
        source.model_copy(update=roles),
        columns,
        reader=objects,
        row_number="line_number",
        raw="line",
        broken="CASE WHEN object IS NULL THEN 'no valid JSON' END",
    )


def _first_json_value(wanted: tuple[str, ...], usual: list[str]) -> str:
    # Those of the first lines come first: the others then are seldom looked for.
    names = sorted(wanted, key=lambda name: name not in usual)
    return f"coalesce({', '.join([*map(_json_value, names), 'NULL'])})"


def _json_value(name: str) -> str:
    return f"(object ->> {literal('/' + name.replace('~', '~0').replace('/', '~1'))})"


def _sequences(con: duckdb.DuckDBPyConnection, file: SourceFile, source: SourceSettings) -> str:
    log.info(
        "%s has an order but no clock: its events get synthetic times, "
        "one a minute from %s on for each user",
        file,
        SYNTHETIC_EPOCH,
    )
    return f"""
        SELECT
            line_number AS row_number,
            line AS raw,
            words[1] AS user_id,
            item_id,
            'event' AS event_type,
            NULL::FLOAT AS weight,
            true AS has_time,
            NULL::DOUBLE AS time_number,
            TIMESTAMPTZ {literal(SYNTHETIC_EPOCH)} + to_minutes(position - 1) AS time_stamp,
            NULL::VARCHAR AS broken
        FROM (
            SELECT
                line_number,
                line,
                words,
                unnest(items) AS item_id,
                generate_subscripts(items, 1) AS position
            FROM (
                SELECT *, CASE WHEN len(words) > 1 THEN words[2:] ELSE [NULL] END AS items
                FROM (
                    SELECT *, string_split_regex(trim(line), '\\s+') AS words
                    FROM {_lines(con, file, source)}
                )
            )
        )
    """


def _lines(con: duckdb.DuckDBPyConnection, file: SourceFile, source: SourceSettings) -> str:
    """Write the FROM of a file's lines that are not blank, each with its number."""
    # One column that no separator ends; not strict, for a file may mix its line ends.
    reader = _text_reader(file, source, ["line"], "\x01", "", header=False, strict=False)
    numbered = _numbered(con, file, source, reader, "", header=False)
    return f"(SELECT * FROM {numbered} WHERE trim(line) <> '')"


def _numbered(
    con: duckdb.DuckDBPyConnection,
    file: SourceFile,
    source: SourceSettings,
    reader: str,
    quote: str,
    *,
    header: bool,
) -> str:
    """Write the FROM of a text file's rows with `line_number`, the line where each begins.

    DuckDB gives the rows in order, but passes over blank lines, lines that it sets aside, and
    those that go on within quotes. These gaps are found first; row n is on the line after as many
    gaps as lie before it.
    """
    blank, inside = _odd_lines(con, file, source, quote) if header else (NO_LINES, NO_LINES)
    rejected, rows = NO_LINES, 0
    if source.broken_rows == "quarantine" or len(inside):
        rows = con.sql(f"FROM {reader}").count("*").fetchall()[0][0]
        rejected = _rejected_lines(con)
    if len(inside) and con.table("file_lines").count("*").fetchall()[0][0] != (
        header + rows + len(rejected) + len(blank) + len(inside)
    ):
        # A quote that encloses nothing: taken as a letter, only what follows it can be off.
        blank, inside = _odd_lines(con, file, source, "")
    gaps = np.union1d(np.concatenate([blank, inside]), _after_gaps(rejected, inside))
    con.register(
        "rejected_lines", pl.DataFrame({"line": rejected, "at": _after_gaps(rejected, inside)})
    )
    counted = f"(SELECT *, row_number() OVER () + {int(header)} AS line_number FROM {reader})"
    if not len(gaps):
        return counted
    before = gaps - np.arange(1, len(gaps) + 1)
    found = pl.DataFrame({"before": before, "gaps": np.arange(1, len(gaps) + 1)})
    # Of gaps in a row the last one counts.
    con.register("line_gaps", found.unique("before", keep="last", maintain_order=True))
    return (
        "(SELECT c.* REPLACE (c.line_number + coalesce(g.gaps, 0) AS line_number) "
        f"FROM {counted} AS c ASOF LEFT JOIN line_gaps AS g ON c.line_number > g.before)"
    )


def _odd_lines(
    con: duckdb.DuckDBPyConnection, file: SourceFile, source: SourceSettings, quote: str
) -> tuple[Lines, Lines]:
    """Return the lines that are blank, and those that go on within quotes."""
    try:
        # As Latin-1 every byte is a letter: no line is set aside, whatever it holds.
        odd = _odd_lines_as("latin-1", con, file, source, quote)
    except duckdb.InvalidInputException:
        # But for 0x80 to 0x9F, which DuckDB's has not, and "ß" or "日" have in UTF-8.
        odd = _odd_lines_as("utf-8", con, file, source, quote)
    blank = odd.filter("blank")["line_number"].to_numpy()
    return blank, odd.filter(~pl.col("blank"))["line_number"].to_numpy()


def _odd_lines_as(
    encoding: str,
    con: duckdb.DuckDBPyConnection,
    file: SourceFile,
    source: SourceSettings,
    quote: str,
) -> pl.DataFrame:
    reader = _text_reader(
        file, source, ["line"], "\x01", "", header=False, strict=False, encoding=encoding
    )
    con.execute(f"CREATE OR REPLACE TEMP VIEW file_lines AS SELECT line FROM {reader}")
    odd: pl.DataFrame = con.sql(duck.sql("odd_lines"), params={"quote": quote}).pl()
    return odd


def _rejected_lines(con: duckdb.DuckDBPyConnection) -> Lines:
    """Return the lines that the last scan set aside, as DuckDB counts them, and forget them."""
    known = "FROM duckdb_tables() WHERE table_name = 'reject_errors'"
    if not con.execute(known).fetchall():
        return NO_LINES
    lines = con.sql("SELECT DISTINCT line::BIGINT AS line FROM reject_errors ORDER BY line")
    found: Lines = lines.pl()["line"].to_numpy()
    con.execute("DELETE FROM reject_errors")
    return found


def _after_gaps(lines: Lines, gaps: Lines) -> Lines:
    """Return where lines are that were counted without the gaps."""
    before = gaps - np.arange(1, len(gaps) + 1)
    moved: Lines = lines + np.searchsorted(before, lines, side="left")
    return moved


def _text_reader(
    file: SourceFile,
    source: SourceSettings,
    columns: list[str],
    separator: str,
    quote: str,
    *,
    header: bool,
    strict: bool = True,
    encoding: str = "utf-8",
) -> str:
    """Write the FROM of a text file whose columns are all read as text."""
    types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    options = {
        "columns": f"{{{types}}}",
        "auto_detect": "false",
        "header": str(header).lower(),
        "delim": literal(separator),
        "quote": literal(quote),
        "escape": literal(quote),
        "max_line_size": str(LONGEST_LINE),
        "strict_mode": str(strict).lower(),
        "encoding": literal(encoding),
        # Said, for DuckDB takes what follows a ? in a name for no part of it.
        "compression": literal(file.compression or "none"),
        # What cannot be parsed goes to the tables reject_errors and reject_scans.
        "store_rejects": str(source.broken_rows == "quarantine").lower(),
    }
    listed = ", ".join(f"{name} = {value}" for name, value in options.items())
    # DuckDB checks only the columns that a query uses. Using all of them always makes every query
    # see the same rows: a line that is broken in a column nobody asked for stays broken.
    return (
        f"(SELECT * FROM read_csv({_path(file)}, {listed}) "
        f"WHERE hash({', '.join(columns)}) IS NOT NULL)"
    )


def _first_line(file: SourceFile) -> str:
    with pa.input_stream(str(file.path), compression=file.compression) as stream:
        start = bytes(stream.read(LONGEST_LINE))
    line = start.partition(b"\n")[0].decode("utf-8-sig").rstrip("\r")
    if not line.strip():
        raise SourceError(f"{file} is empty: remove it, or deliver it again")
    return line


def _separator(header: str, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return max(SEPARATORS, key=header.count)


def _refuse_cut_zstd(file: SourceFile) -> None:
    """Read a .zst to its end: DuckDB takes one that is cut short for a shorter one."""
    with pa.input_stream(str(file.path), compression="zstd") as stream:
        while stream.read(1 << 20):
            pass


def _path(file: SourceFile) -> str:
    return literal(glob.escape(str(file.path)))


def _not_utf8(file: SourceFile, where: str = "") -> str:
    return (
        f"{file}{where} is not UTF-8: convert the file, for example with iconv -f latin1 -t utf-8"
    )


def _explained(file: SourceFile, message: str) -> SourceError | None:
    """Say in one sentence what is wrong with a file; None if it is not the file."""
    line = re.search(r"CSV Error on Line: (\d+)", message)
    where = f" line {line[1]}" if line else ""
    if "unicode" in message or "utf-8" in message.lower():
        return SourceError(_not_utf8(file, where))
    if line:
        reason = next(
            (text for text in message.splitlines()[2:] if text.strip()), "not as its header says"
        )
        return SourceError(
            f"{file}{where} cannot be parsed ({reason.strip().rstrip('.')}): correct the line, "
            'or let such lines go to quarantine with source.broken_rows = "quarantine"'
        )
    if "state machine" in message:
        return SourceError(
            f"{file} mixes line ends or has a stray quote: write it anew with one kind of line end"
        )
    if "end of GZIP" in message or "Truncated compressed" in message:
        return SourceError(f"{file} is cut short: deliver it again")
    if re.search("GZIP|ZSTD|inflate|decompress", message):
        return SourceError(f"{file} is not compressed as its name says: rename it")
    if file.format == "parquet":
        reason = message.splitlines()[0].rstrip(".")
        return SourceError(f"{file} is no readable Parquet file ({reason}): deliver it again")
    return None
