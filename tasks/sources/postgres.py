"""A table of PostgreSQL, or what a query there gives: the rows of the night by their time.

`source.connection` is the id of an Airflow connection (`tasks.connections`). Either `source.table`
names a table or view, `events` or `schema.events`, spelled as PostgreSQL keeps it, or
`source.query` is one SELECT. Both are read the same way, in one transaction that sees one state of
the database (REPEATABLE READ) and can write nothing (READ ONLY):

* Only rows from the first day that the night reads to before its end come over, so that an index of
  the time column bounds what a night costs. With them come those that no night would ever ask for,
  without a time or with one outside of 1970 to 2199: they go to quarantine, once.
* Rows come as Arrow in batches of some megabytes (ADBC, which lets PostgreSQL COPY them) into a
  temporary table of DuckDB, which goes to disk where memory ends. Never is a whole table in memory.
* The time is a `timestamptz`, a `timestamp` or `date` (UTC), or a number since 1970 in the unit
  `source.time_unit`; "auto" looks at some values first, to know which numbers to ask for.

A table has no order. So that the same rows give the same events whatever order they come in,
`row_number` is made of the values of the row: it breaks ties of the time, and knows a rejected row
again, the same way every night.
"""

import datetime as dt
import logging
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import pyarrow as pa

from tasks import postgres
from tasks.connections import postgres_uri
from tasks.errors import NotReadyError, SourceError
from tasks.lake.duck import identifier, literal
from tasks.settings import CatalogueSettings, ReadSettings, Settings, SourceSettings
from tasks.sources.items import item_rows
from tasks.sources.rows import (
    Object,
    Rows,
    as_json,
    chosen,
    needed,
    numbered_by_content,
    refuse_short_floats,
    source_rows,
)
from tasks.sources.units import (
    END_OF_TIME,
    START_OF_TIME,
    US_PER_UNIT,
    is_date,
    refuse_dates,
    unit_of,
)

log = logging.getLogger(__name__)

CLOCKS = ("timestamptz", "timestamp", "date")
WHOLE_NUMBERS = ("int2", "int4", "int8")
NUMBERS = (*WHOLE_NUMBERS, "float8", "numeric")
LARGEST_INT8 = 2**63 - 1
SAMPLED_TIMES = 1000  # to see in which unit numbers are


class Postgres:
    """The source `postgres`: a table or a query behind an Airflow connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.source

    def __str__(self) -> str:
        what = f"table {self.settings.table}" if self.settings.table else "source.query"
        return f"{what} of connection {self.settings.connection}"

    def parts(self, first: dt.datetime | None, end: dt.datetime) -> list["Window"]:
        """Return the rows between these times as the one part.

        Raises SourceError when the settings do not say which.
        """
        if not self.settings.connection:
            raise SourceError(
                "source.connection is not set: give the id of an Airflow connection to PostgreSQL"
            )
        if self.settings.path:
            raise SourceError(
                f'source.path is {self.settings.path}, but source.kind is "postgres", which reads '
                'no files: set source.kind = "files", or leave source.path empty'
            )
        if bool(self.settings.table) == bool(self.settings.query):
            raise SourceError(
                "of source.table and source.query exactly one must be set: name a table, or write "
                "a SELECT that gives users, items and times"
            )
        return [Window(str(self), self.settings, first, end)]


@dataclass(frozen=True)
class Window:
    """The rows of a table or query between two times."""

    title: str
    settings: ReadSettings
    first: dt.datetime | None
    end: dt.datetime
    versions = None

    @property
    def name(self) -> str:
        """The connection and the table, or that it is the query."""
        return f"{self.settings.connection}:{self.settings.table or 'query'}"

    def __str__(self) -> str:
        return self.title

    @contextmanager
    def open(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Bring the rows over and create the view `source_rows`; at the end they are removed.

        Raises
        ------
        SourceError
            The server refuses the login; the table is not there or may not be read; a needed
            column is missing, or its time is text; the query is no SELECT.
        SettingsError
            There is no such connection.
        NotReadyError
            The server does not answer, or no longer.
        """
        uri = postgres_uri(self.settings.connection)
        with (
            _explaining(self),
            adbc.connect(uri) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL TIME ZONE 'UTC'")
            rows = self._bring(con, cursor, uri)
        con.execute(f"CREATE OR REPLACE TEMP VIEW source_rows AS {rows}")
        try:
            yield
        finally:
            con.execute("DROP TABLE brought")

    def _bring(self, con: duckdb.DuckDBPyConnection, cursor: adbc.Cursor, uri: str) -> str:
        """Put the rows into the table `brought`; return the SELECT of `source_rows` over it."""
        source = self._from()
        if isinstance(self.settings, CatalogueSettings):
            return self._bring_items(con, cursor, uri, self.settings)
        assert isinstance(self.settings, SourceSettings)
        # Prepared by itself, what is not one single statement is refused before it does anything.
        described = cursor.adbc_execute_schema(f"SELECT * FROM {source}")
        types = {column.name: _type(column) for column in described}
        wanted = chosen(self, types, self.settings)
        self._refuse_what_a_query_does(self.settings, wanted, types)
        time = _Time(wanted["time"], types[wanted["time"]])
        if time.type == "float4":
            refuse_short_floats(self)
        if time.type in NUMBERS:
            sampled = (
                f"SELECT {time.column}::float8 AS n FROM {source} "
                f"WHERE {time.column} IS NOT NULL LIMIT {SAMPLED_TIMES}"
            )
            cursor.execute(sampled)
            times = cursor.fetch_arrow_table()["n"].to_pylist()
            if times:
                if sum(map(is_date, times)) * 2 > len(times):
                    refuse_dates(self, next(filter(is_date, times)))
                unit = unit_of(self, self.settings.time_unit, statistics.median(times))
                time = _Time(time.name, time.type, unit)
        elif time.type not in CLOCKS:
            raise SourceError(
                f"column {time.name} of {self} is of type {time.type}, which is no time: name a "
                "column of type timestamptz, timestamp, date or number in source.time_columns, or "
                "cast it in a source.query"
            )
        # DuckDB is told positions; text, for what an id or a weight is does not matter yet.
        names = list(dict.fromkeys(wanted.values()))
        columns = {name: f"c{i}" for i, name in enumerate(names)}
        listed = [
            f"{time.value if name == time.name else f'{identifier(name)}::text'} AS {column}"
            for name, column in columns.items()
        ]
        listed.append(f"CASE WHEN {time.unusable} THEN {time.column}::text END AS odd_time")
        between = time.between(self.first, self.end)
        query = (
            f"SELECT {', '.join(listed)} FROM {source} "
            f"WHERE ({between}) OR {time.column} IS NULL OR {time.unusable}"
        )
        self._copy(con, cursor, uri, query)
        kept = {time.name: time.kept}
        as_read = {**columns, time.name: f"coalesce(odd_time, {columns[time.name]}::VARCHAR)"}
        rows = Rows(
            columns,
            reader="brought",
            row_number=numbered_by_content(list(as_read.values())),
            raw=as_json(as_read),
            types={name: kept.get(name, "VARCHAR") for name in columns},
        )
        return source_rows(self, self.settings, rows)

    def _bring_items(
        self,
        con: duckdb.DuckDBPyConnection,
        cursor: adbc.Cursor,
        uri: str,
        settings: CatalogueSettings,
    ) -> str:
        """Put all rows of a catalogue into `brought`, as JSON: it keeps arrays and long numbers."""
        cursor.adbc_execute_schema(f"SELECT * FROM {self._from()}")  # one statement, or refused
        query = f"SELECT to_jsonb(found)::text AS object FROM (SELECT * FROM {self._from()}) found"
        self._copy(con, cursor, uri, query)
        columns = con.execute("SELECT json_keys(object::JSON) FROM brought LIMIT 1").fetchone()
        if columns and not set(settings.item_columns) & set(columns[0]):
            needed(self, columns[0], settings.item_columns, "source.item_columns")
        rows = Rows(
            Object("object"),
            reader="(SELECT object::JSON AS object FROM brought)",
            row_number=numbered_by_content(["object"]),
            raw="object::VARCHAR",
        )
        return item_rows(self, settings, rows)

    def _copy(
        self, con: duckdb.DuckDBPyConnection, cursor: adbc.Cursor, uri: str, query: str
    ) -> None:
        cursor.execute(query)
        try:
            _copy(con, cursor.fetch_record_batch())
        except (OSError, pa.ArrowException) as error:
            if postgres.absence(self.settings.connection, error):
                raise
            raise postgres.asked_again(uri, query) or error from None

    def _refuse_what_a_query_does(
        self, settings: SourceSettings, wanted: dict[str, str], types: dict[str, str]
    ) -> None:
        """Raise SourceError for settings of files, and for columns that are no text."""
        if settings.time_format or settings.time_zone != "UTC":
            raise SourceError(
                "source.time_unit is a format, or source.time_zone not UTC, which PostgreSQL does "
                "itself: turn the time into a timestamptz in a source.query"
            )
        for name in wanted.values():
            kind = types.get(name, "a path")
            if kind in ("a path", "bytea", "json", "jsonb") or kind.startswith("_"):
                raise SourceError(
                    f"column {name} of {self} is no single value but {kind}: take it apart in a "
                    "source.query"
                )

    def _from(self) -> str:
        if self.settings.query:
            query = self.settings.query.strip().removesuffix(";")
            return f"({query}\n) AS query"  # on a line of its own: the query may end in a comment
        return ".".join(identifier(name) for name in self.settings.table.split("."))


@dataclass(frozen=True)
class _Time:
    """The time column in PostgreSQL's SQL."""

    name: str
    type: str
    unit: str = "s"  # of numbers

    @property
    def column(self) -> str:
        """The column as SQL."""
        return identifier(self.name)

    @property
    def kept(self) -> str:
        """The type in DuckDB. Whole numbers stay whole: a float would round nanoseconds."""
        if self.type not in NUMBERS:
            return "TIMESTAMPTZ"
        whole = self.type in WHOLE_NUMBERS or (self.type == "numeric" and self.unit == "ns")
        return "BIGINT" if whole else "DOUBLE"

    @property
    def value(self) -> str:
        """What is fetched; a date and clock beyond Arrow's range becomes one outside of 1970-2199.

        Infinity is one of these.
        """
        if self.kept == "DOUBLE":
            return f"{self.column}::float8"
        if self.type in WHOLE_NUMBERS:
            return f"{self.column}::int8"
        if self.type in NUMBERS:
            whole = f"greatest(0, least({LARGEST_INT8}, floor({self.column})))"
            return f"CASE WHEN {self.column} IS NOT NULL THEN {whole}::int8 END"
        early, late = self._at(dt.datetime(1969, 1, 1, tzinfo=dt.UTC)), self._at(END_OF_TIME)
        # GREATEST and LEAST would pass over a null.
        return (
            f"CASE WHEN {self.column} IS NOT NULL "
            f"THEN greatest({early}, least({late}, {self.column}))::timestamptz END"
        )

    @property
    def unusable(self) -> str:
        """Whether no night ever asks for this time."""
        return f"NOT ({self.between(START_OF_TIME, END_OF_TIME)})"

    def between(self, first: dt.datetime | None, end: dt.datetime) -> str:
        """Whether the time is from `first` to before `end`."""
        until = f"{self.column} < {self._at(end)}"
        return until if first is None else f"{self.column} >= {self._at(first)} AND {until}"

    def _at(self, moment: dt.datetime) -> str:
        if self.type in NUMBERS:
            us = (moment - START_OF_TIME) // dt.timedelta(microseconds=1)
            return f"{us / US_PER_UNIT[self.unit]:.0f}"
        if self.type == "timestamptz":
            return f"timestamptz {literal(moment.isoformat())}"
        return f"{self.type} {literal(moment.replace(tzinfo=None).isoformat())}"


def _type(column: pa.Field) -> str:
    """Return PostgreSQL's name of a column's type."""
    name: bytes = (column.metadata or {}).get(b"POSTGRESQL:type", b"unknown")
    return name.decode()


def _copy(con: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> None:
    """Put what the reader gives into the temporary table `brought`, batch by batch."""
    con.register("batch", reader.schema.empty_table())
    con.execute("CREATE OR REPLACE TEMP TABLE brought AS SELECT * FROM batch")
    for batch in reader:
        con.register("batch", batch)
        con.execute("INSERT INTO brought SELECT * FROM batch")
    con.unregister("batch")


@contextmanager
def _explaining(part: Window) -> Iterator[None]:
    """Turn what a person can mend into a sentence, and that the server is away into another.

    What the server says holds names, but neither the URI nor the password.
    """
    try:
        yield
    except (adbc.Error, pa.ArrowException, OSError) as error:
        if refused := postgres.refusal(part.settings.connection, error):
            raise SourceError(refused) from None
        if away := postgres.absence(part.settings.connection, error):
            raise NotReadyError(away) from None
        if not (reason := postgres.fault(error)):
            raise
        key = "source.table" if part.settings.table else "source.query"
        raise SourceError(
            f"{part} cannot be read ({reason}): correct {key}, or let the database's owner grant "
            "SELECT on it to the user of the connection"
        ) from None
