"""Text as the view `source_rows`: tables, JSON and sequence files.

Each is read as records (`tasks.sources.lines`), which SQL takes apart here, once, into a temporary
table that goes to disk where memory ends.
"""

import csv
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from tasks.errors import SourceError
from tasks.lake.duck import literal, set_variables
from tasks.settings import CatalogueSettings, ReadSettings
from tasks.sources.lines import Records
from tasks.sources.rows import (
    Object,
    Rows,
    columns_of,
    filled,
    has_plain_time,
    needed,
    refuse_names_twice,
)
from tasks.sources.units import ANY_TIMES, SYNTHETIC_EPOCH, PlainTimes, plain_times, unit_like
from tasks.sources.views import view_rows

log = logging.getLogger(__name__)

SEPARATORS = (",", "\t", ";", "|")
SAMPLED_RECORDS = 1000  # of a JSON file, to name the keys that it has
# How a role shows in the rows of a JSON file.
THERE = {"user": "count(user_id)", "item": "count(item_id)", "time": "count_if(has_time)"}
# A line of a sequence file, where the settings do not say that it is one: ids, the user's not a
# word. Anything else may be a table or prose.
IDS = r"\s*[\w-]*[0-9][\w-]*( +[\w-]+)* *"


@dataclass(frozen=True)
class SourceFile:
    """A file of events on this machine."""

    path: Path
    shown: str  # how messages name it
    format: str
    folders: dict[str, str | None]  # columns in its path
    columns: dict[str, tuple[str, ...]]  # that are taken for each role, once it is read

    def __str__(self) -> str:
        return self.shown


def _records(file: SourceFile, source: ReadSettings, **options: Any) -> Records:
    return Records(
        file.path, str(file), encoding=source.encoding, skipped=source.skip_rows, **options
    )


@contextmanager
def _text_lines(con: duckdb.DuckDBPyConnection, records: Records) -> Iterator[None]:
    """Have the records as `text_lines`, for one query."""
    with records.reader() as reader:
        con.register("text_lines", reader)
        try:
            yield
        finally:
            con.unregister("text_lines")


@contextmanager
def _held(
    con: duckdb.DuckDBPyConnection, records: Records, rows: str, source: ReadSettings
) -> Iterator[None]:
    """Read text once: the view `source_rows` is over what `rows` makes of `text_lines`."""
    _hold(con, records, rows, ANY_TIMES)
    con.execute("CREATE OR REPLACE TEMP VIEW source_rows AS FROM text_rows")
    if "time" in source.roles:
        _keep_lines_of_odd_times(con, records, rows)
    try:
        yield
    finally:
        con.execute("DROP VIEW source_rows")
        con.execute("DROP TABLE text_rows")


def _keep_lines_of_odd_times(con: duckdb.DuckDBPyConnection, records: Records, rows: str) -> None:
    """Read the text once more if times are of another unit than most, to have their lines too.

    Which unit most are of is known only after all are read.
    """
    ((numbers, middle),) = con.execute(
        "SELECT count_if(isfinite(time_number)) * 2 > count_if(has_time), "
        "approx_quantile(time_number, 0.5) FILTER (isfinite(time_number) AND time_number <> 0) "
        "FROM text_rows"
    ).fetchall()
    plain = plain_times(unit_like(middle or 0.0) if numbers else "iso", middle or 0.0)
    set_variables(con, plain)
    ((unlike,),) = con.execute(
        "SELECT count(*) FROM text_rows "
        f"WHERE raw IS NULL AND NOT coalesce({has_plain_time('time_number', 'time_stamp')}, false)"
    ).fetchall()
    if unlike:
        _hold(con, records, rows, plain)


def _hold(con: duckdb.DuckDBPyConnection, records: Records, rows: str, plain: PlainTimes) -> None:
    set_variables(con, plain)
    with _text_lines(con, records):
        con.execute(f"CREATE OR REPLACE TEMP TABLE text_rows AS {rows}")


class Dialect(NamedTuple):
    """How the columns of a line of a table are told apart."""

    separator: str
    quote: str  # "": none
    escape: str
    # Of a value that begins and ends with a quote these are left away, and else are letters: a
    # line end always ends the row.
    loose: bool

    def fields(self, n: int) -> str:
        """Write the columns of `line` as a list, null when it cannot be taken apart."""
        plain = f"string_split(line, {literal(self.separator)})"
        signs = [sign for sign in (self.quote, self.escape) if sign]
        if not signs:
            return plain
        none = " AND ".join(f"NOT contains(line, {literal(sign)})" for sign in signs)
        # A separator of several characters becomes one that no text has.
        sign = self.separator if len(self.separator) == 1 else "\x1f"
        line = "line"
        if sign != self.separator:
            line = f"replace(line, {literal(self.separator)}, {literal(sign)})"
        line = f"({literal(sign)} || {line})"
        value = literal(rf"(?s){_code(sign)}({self._value(_code(sign))})")
        values, whole = f"regexp_extract_all({line}, {value}, 1)", ""
        if sign != self.separator:
            # Within quotes it was no separator. A line that has the sign already is not guessed at.
            values = (
                f"list_transform({values}, "
                f"lambda value: replace(value, {literal(sign)}, {literal(self.separator)}))"
            )
            whole = f" AND NOT contains(line, {literal(sign)})"
        found = (
            f"CASE WHEN array_to_string(regexp_extract_all({line}, {value}), '') = {line}{whole} "
            f"THEN {values} END"
        )
        if self.loose:
            found = f"CASE WHEN len({plain}) = {n} THEN {plain} ELSE coalesce({found}, {plain}) END"
        return f"CASE WHEN {none} THEN {plain} ELSE {found} END"

    def _value(self, separator: str) -> str:
        """Write the pattern of one value."""
        escaped = f"{_code(self.escape)}.|" if self.escape else ""
        escape = _code(self.escape) if self.escape else ""
        letters = rf"(?:{escaped}[^{separator}{escape}])"
        if not self.quote:
            return f"{letters}*"
        quote = _code(self.quote)
        first = rf"(?:{escaped}[^{separator}{escape}{quote}])"
        return (
            rf"{quote}(?:{escaped}{quote}{quote}|[^{quote}{escape}])*{quote}|(?:{first}{letters}*)?"
        )

    def column(self, number: int) -> str:
        """Write the value of a column, from 1, without its quotes and escapes."""
        value = f"fields[{number}]"
        if self.quote:
            quote, twice = literal(self.quote), literal(self.quote * 2)
            inner = f"substr({value}, 2, length({value}) - 2)"
            enclosed = f"starts_with({value}, {quote})"
            if self.loose:
                enclosed += (
                    f" AND ends_with({value}, {quote}) AND length({value}) > 1 "
                    f"AND NOT contains(replace({inner}, {twice}, ''), {quote})"
                )
            value = f"CASE WHEN {enclosed} THEN replace({inner}, {twice}, {quote}) ELSE {value} END"
        if self.escape:
            signs = "".join(map(_code, {*self.separator, self.quote or self.escape, self.escape}))
            pattern = literal(rf"(?s){_code(self.escape)}([{signs}\n\r])")
            value = f"regexp_replace({value}, {pattern}, '\\1', 'g')"
        return value


def _code(sign: str) -> str:
    return "".join(f"\\x{{{ord(letter):x}}}" for letter in sign)


@contextmanager
def _table(
    con: duckdb.DuckDBPyConnection, file: SourceFile, source: ReadSettings
) -> Iterator[None]:
    """Read a text file whose lines have columns."""
    number, line = _records(file, source).first()
    if said := re.fullmatch(r'"?sep=([^"]+)"?', line.strip("\ufeff\r ")):
        # How Excel is told the separator. The names are in the next line.
        number, line = replace(_records(file, source), skipped=number).first()
        if source.separator == "auto":
            source = source.model_copy(update={"separator": said[1]})
    dialect = _dialect(file, source, line)
    if source.columns:
        number, names = number - 1, list(source.columns)
    else:
        names = _names(file, dialect, line)
    n = len(names)
    columns = {name: dialect.column(k) for k, name in reversed([*enumerate(names, 1)])}
    columns = {name: columns[name] for name in names}
    _refuse_rows_as_names(file, source, columns, line, dialect)
    of = "source.columns has" if source.columns else "the first line has"
    broken = (
        "coalesce(broken, CASE WHEN fields IS NULL THEN 'a line with a stray quote' "
        f"WHEN len(fields) <> {n} THEN "
        f"'a line of ' || len(fields) || ' columns, where {of} {n}' END)"
    )
    reader = (
        f"(SELECT line_number, line, {broken} AS broken, "
        f"CASE WHEN broken IS NULL AND len(fields) = {n} THEN fields END AS fields "
        f"FROM (SELECT *, {dialect.fields(n)} AS fields FROM text_lines "
        f"WHERE line <> '' AND line_number > {number}))"
    )
    rows = Rows(
        columns,
        reader=reader,
        row_number="line_number",
        raw="line",
        broken="broken",
        folders=file.folders,
        blanks_between=_of_several_words(file, line),
    )
    records = _records(
        file,
        source,
        separator=dialect.separator,
        quote="" if dialect.loose else dialect.quote,
        escape=dialect.escape,
        columns=n,
        sure=source.quote != "auto",
    )
    with _held(con, records, view_rows(file, source, rows), source):
        yield


def _dialect(file: SourceFile, source: ReadSettings, line: str) -> Dialect:
    if file.format == "recbole":
        return Dialect("\t", "", "", loose=False)
    separator = separator_of(line) if source.separator == "auto" else source.separator
    quote = '"' if source.quote == "auto" else source.quote
    if source.escape and source.escape == quote:
        raise SourceError(
            f"source.escape is {quote}, which is the quote: leave source.escape empty, for a quote "
            "that is written twice within quotes is read as one anyway"
        )
    for name, sign in {"source.quote": quote, "source.escape": source.escape}.items():
        if sign and sign in separator:
            raise SourceError(
                f"{name} is {sign!r}, which is in the separator {separator!r} of {file}: set it, "
                "or source.separator, to another sign"
            )
    # In a file with tabs a quote is mostly a letter, as in a title.
    loose = source.quote == "auto" and (separator == "\t" or len(separator) > 1)
    return Dialect(separator, quote, source.escape, loose and not source.escape)


def separator_of(line: str) -> str:
    """Return the separator that a line has most of."""
    return max(SEPARATORS, key=line.count)


def _names(file: SourceFile, dialect: Dialect, line: str) -> list[str]:
    """Return the columns that the first line names."""
    if file.format == "recbole":
        names = [name for name, _ in _recbole_names(line)]
    elif len(dialect.separator) > 1 or not dialect.quote:
        names = line.split(dialect.separator)
    else:
        names = next(csv.reader([line], delimiter=dialect.separator, quotechar=dialect.quote))
    refuse_names_twice(file, names)
    return names


def _recbole_names(line: str) -> list[tuple[str, str]]:
    """Return the columns and their types that the first line of a RecBole file names."""
    parts = [name.partition(":") for name in line.split("\t")]
    return [(name, kind) for name, _, kind in parts]


def _of_several_words(file: SourceFile, line: str) -> list[str]:
    """Return the columns of a RecBole file whose values are words with blanks between them."""
    named = _recbole_names(line) if file.format == "recbole" else []
    return [name for name, kind in named if kind.endswith("_seq")]


def _refuse_rows_as_names(
    file: SourceFile,
    source: ReadSettings,
    columns: dict[str, str],
    line: str,
    dialect: Dialect,
) -> None:
    """Raise SourceError for a file without a header whose first row would be taken for one.

    And for one with a header that would be taken for a row.
    """
    if source.columns:
        names = [_bare(name, dialect) for name in line.split(dialect.separator)]
        if file.format == "recbole":
            names = [name.partition(":")[0] for name in names]
        # In any order: as a row it would give users for items.
        if sorted(names) == sorted(_bare(name, dialect) for name in source.columns):
            raise SourceError(
                f"{file} names its columns in its first line, which would be read as a row: leave "
                "source.columns empty"
            )
        return
    names = line.split(dialect.separator)
    times = [name for name in columns if re.fullmatch(r"\d{8,19}(\.\d+)?|\d{4}-\d\d-\d\d.*", name)]
    known_by = {name for role in source.known_by for name in columns_of(source, role)}
    missing = not known_by & {*columns, *file.folders}
    if (missing and any(re.search(r"\d", name) for name in names)) or (
        set(times) & set(getattr(source, "time_columns", ()))
    ):
        example = ", ".join(f'"{columns_of(source, role)[0]}"' for role in source.roles[:3])
        first, second, third = (f"{role}_columns" for role in source.roles[:3])
        raise SourceError(
            f"{file} names none of the columns in its first line, {line[:100]!r}: if that is a "
            "row, name the columns by their position in source.columns, such as "
            f"[{example}]; if not, set source.separator and source.{first}, {second} and {third} "
            "(has no column "
            f"{' or '.join(source.item_columns)})"
        )


def _bare(name: str, dialect: Dialect) -> str:
    """Write the name of a column as it is compared: quotes, blanks and capitals make no other."""
    return name.strip().strip(dialect.quote or None).strip().casefold()


def _json_records(file: SourceFile, source: ReadSettings) -> Records:
    start = _records(file, source).start().lstrip()
    values = start.startswith("[")
    if file.format == "json" and not values:
        try:
            json.loads(start.partition("\n")[0])
        except ValueError:
            values = True
    return _records(file, source, values=values)


@contextmanager
def _json(con: duckdb.DuckDBPyConnection, file: SourceFile, source: ReadSettings) -> Iterator[None]:
    """Read JSON: an object a line, or with `json` values one after another or in an array."""
    records = _json_records(file, source)
    # A line that is no JSON gets no object, so that looking into it does not fail.
    reader = (
        "(SELECT line_number, line, "
        "CASE WHEN broken IS NULL AND json_valid(line) THEN line::JSON END AS object, "
        "coalesce(broken, CASE WHEN NOT json_valid(line) THEN 'no valid JSON' END) AS broken "
        "FROM text_lines WHERE trim(line, ' \t\r') <> '')"
    )
    rows = Rows(
        Object("object"),
        reader=reader,
        row_number="line_number",
        raw="line",
        broken="broken",
        folders=file.folders,
    )
    with _held(con, records, view_rows(file, source, rows), source):
        _refuse_missing_keys(con, file, source, records)
        counts = counted_names(con, file, source, SAMPLED_RECORDS)
        for role, names in list(file.columns.items()):  # to be told: those that it has
            file.columns[role] = tuple(name for name in names if counts[name])
        yield


def counted_names(
    con: duckdb.DuckDBPyConnection,
    file: SourceFile,
    source: ReadSettings,
    sampled: int | None = None,
) -> dict[str, int]:
    """Return how many objects of a JSON file have a value by each name; [] counts as its list.

    sampled: how many objects are looked at, from the first on; None: all.
    """
    names = list(dict.fromkeys(n for role in source.roles for n in columns_of(source, role)))
    fields = [Object("line").field(name.partition("[")[0]).sql for name in names]
    counts = ", ".join(f"count(nullif({field}::VARCHAR, 'null'))" for field in fields)
    with _text_lines(con, _json_records(file, source)):
        (found,) = con.execute(
            f"SELECT {counts} FROM (FROM text_lines LIMIT {sampled or 2**62}) "
            "WHERE json_valid(line)"
        ).fetchall()
    return dict(zip(names, found, strict=True))


def _refuse_missing_keys(
    con: duckdb.DuckDBPyConnection, file: SourceFile, source: ReadSettings, records: Records
) -> None:
    """Raise SourceError when no record has what it needs, by any of the names."""
    there = ", ".join(THERE[role] for role in source.needed)
    (counts,) = con.execute(
        f"SELECT {there}, count(*), count(unread), any_value(unread) "
        "FROM text_rows WHERE broken IS NULL"
    ).fetchall()
    *found, rows, unread, reason = counts
    if not rows or all(found):
        return
    with _text_lines(con, records):
        ((keys,),) = con.execute(
            "SELECT coalesce(list_sort(list_distinct(flatten(list(json_keys(line))))), []) "
            f"FROM (SELECT line FROM text_lines LIMIT {SAMPLED_RECORDS}) "
            "WHERE CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' END"
        ).fetchall()
    if not keys:
        line = _records(file, source, values=records.values).first()[1]
        kind, example = (
            ("an item", '{"item_id": 2, "title": "A lamp"}')
            if isinstance(source, CatalogueSettings)
            else ("an event", '{"user_id": 1, "item_id": 2, "ts": "2026-11-02T12:00:00Z"}')
        )
        raise SourceError(
            f"{file} has no JSON objects, its first value is {line[:100]}: have {kind} be an "
            f"object, such as {example}"
        )
    for role, count in zip(source.needed, found, strict=True):
        wanted = columns_of(source, role)
        if role == "user":
            wanted += columns_of(source, "session")  # either does
        heads = {re.split(r"[.\[]", name)[0] for name in wanted} | set(wanted)
        if not count and not heads & set(keys):
            needed(file, keys, wanted, f"source.{role}_columns")
    if unread == rows:
        raise SourceError(
            f"no row of {file} can be read, for {reason}: name a value in it, such as "
            f"{source.needed[0]}_id.key, in source.{source.needed[0]}_columns and its neighbours"
        )


@contextmanager
def _sequences(
    con: duckdb.DuckDBPyConnection, file: SourceFile, source: ReadSettings
) -> Iterator[None]:
    """Read a file of ids, on each line a user and its items in their order."""
    log.info(
        "%s has an order but no clock: its events get synthetic times, "
        "one a minute from %s on for each user",
        file,
        SYNTHETIC_EPOCH,
    )
    odd = "NULL"
    if source.format == "auto":
        odd = (
            f"CASE WHEN NOT regexp_full_match(line, {literal(IDS)}) THEN 'more than the ids with "
            'blanks between them of a sequence file; if it is one, set source.format = "sequences"'
            "' END"
        )
    rows = f"""
        SELECT
            line_number AS row_number,
            line AS raw,
            {filled("words[1]", source)} AS user_id,
            {filled("item", source)} AS item_id,
            'event' AS event_type,
            NULL::FLOAT AS weight,
            true AS has_time,
            NULL::DOUBLE AS time_number,
            TIMESTAMPTZ {literal(SYNTHETIC_EPOCH)} + to_minutes(position - 1) AS time_stamp,
            broken,
            NULL::VARCHAR AS unread,
            NULL::VARCHAR AS unread_time
        FROM (
            SELECT *, unnest(items) AS item, generate_subscripts(items, 1) AS position
            FROM (
                SELECT *, CASE WHEN broken IS NULL AND len(words) > 1 THEN words[2:] ELSE [NULL] END
                    AS items
                FROM (
                    SELECT line_number, line, coalesce(broken, {odd}) AS broken,
                        string_split_regex(trim(line, ' \t\r'), '\\s+') AS words
                    FROM text_lines
                    WHERE trim(line, ' \t\r') <> ''
                )
            )
        )
    """
    with _held(con, _records(file, source), rows, source):
        yield


# How each format is read: within the block the view `source_rows` is over the file.
READERS = {
    "csv": _table,
    "recbole": _table,
    "jsonl": _json,
    "json": _json,
    "sequences": _sequences,
}
