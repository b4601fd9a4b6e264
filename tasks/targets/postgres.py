"""Labels as a table of PostgreSQL, all nights in it, and a view of the newest one.

A night is replaced in one transaction: its rows are deleted, the new ones come by COPY, and readers
have the rows before until it ends. Whoever writes holds an advisory lock of the table, so that a
second run waits. Table, indexes, view and comments are made with the first night.

What is published with the labels (`contract.COMPANIONS`) has tables of its own, and the revisions
of the nights have one, `<table>_log`; all are written in the same transaction as the labels. The
view `<table>_named` joins the newest labels with the names of their intents. A table of labels that
was made before there were any of these gets them with the next night. That of recommendations is
made with the first night that has some.
"""

import datetime as dt
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks import postgres
from tasks.connections import postgres_uri
from tasks.errors import NotReadyError, PublishError
from tasks.lake.duck import identifier, literal
from tasks.settings import Settings
from tasks.targets import contract

log = logging.getLogger(__name__)

ROWS_A_BATCH = 65_536  # bounds the memory, whatever the number of labels
LATEST = "_latest"  # the view's name is the table's with this behind it
LOG = "_log"  # so is the name of the table of revisions; longer, it would be cut off
NAMED = "_named"  # and that of the view of labels with names
VERSION = re.compile(r"contract version (\d+)")  # in the table's comment
LONGEST = 63  # letters of a name: PostgreSQL cuts a longer one off
BESIDE = "publish.postgres_table, beside which that would be"  # the setting to correct
TABLES, VIEWS = "rp", "v"  # kinds of pg_class: tables with partitions or without; views


class PostgresTable:
    """The table `publish.postgres_table` of the connection `publish.postgres_connection`."""

    def __init__(self, settings: Settings) -> None:
        self.connection = settings.publish.postgres_connection
        self.table = settings.publish.postgres_table
        self.recommends = settings.recommend.top_k > 0
        self.uri = postgres_uri(self.connection)

    def __str__(self) -> str:
        return f"table {self.table} of connection {self.connection}"

    def check(self) -> None:
        """Refuse a login that fails, a missing schema, and a table or view of other columns."""
        with self._transaction() as cursor:
            place = _Place(self, cursor)
            place.is_ready()
            for companion in contract.COMPANIONS:
                if companion.only_with_rows and self.recommends:
                    place.is_there(companion)

    def publish(self, con: duckdb.DuckDBPyConnection, night: dt.date, revisions: pa.Table) -> None:
        """Replace the night's rows and revisions; what is missing of tables and view is made."""
        rows = con.sql(f"SELECT {', '.join(contract.NAMES)} FROM intent_labels ORDER BY user_id")
        with self._transaction() as cursor:
            place = _Place(self, cursor)
            place.lock()
            place.make()
            cursor.execute(f"DELETE FROM {place.sql} WHERE dt = $1", (night,))
            cursor.adbc_ingest(
                place.name,
                rows.to_arrow_reader(ROWS_A_BATCH),
                mode="append",
                db_schema_name=place.schema,
            )
            for companion in contract.COMPANIONS:
                table = place.of(companion)
                if companion.only_with_rows:
                    if con.table(companion.name).limit(1).fetchall():
                        place.make_of(companion)
                    elif not place.is_ours(companion):
                        continue
                cursor.execute(f"DELETE FROM {table} WHERE dt = $1", (night,))
                cursor.adbc_ingest(
                    place.name + companion.suffix,
                    con.sql(_rows_of(companion)).to_arrow_reader(ROWS_A_BATCH),
                    mode="append",
                    db_schema_name=place.schema,
                )
                cursor.execute(f"ANALYZE {table}")
            place.log([night], revisions)
            # Until PostgreSQL does so by itself, it takes the new night for a handful of rows.
            cursor.execute(f"ANALYZE {place.sql}")

    def forget(self, users: Sequence[str], revisions: pa.Table) -> dict[str, int]:
        """Delete the rows of these users, and let PostgreSQL clear the space they were in."""
        with self._transaction() as cursor:
            place = _Place(self, cursor)
            place.lock()
            if not place.is_ready():
                return {"rows_removed": 0, "nights_rewritten": 0, "left": 0}
            of_users = [one for one in contract.COMPANIONS if one.of_users]
            there = [place.of(one) for one in of_users if place.is_ours(one)]
            wanted = "user_id = ANY($1)"
            removed, nights, left = Counter[str](), set[dt.date](), 0
            for table in (place.sql, *there):
                cursor.execute(
                    f"WITH gone AS (DELETE FROM {table} WHERE {wanted} RETURNING dt) "
                    "SELECT dt, count(*) FROM gone GROUP BY dt",
                    (list(users),),
                )
                for night, rows in cursor.fetchall():
                    removed[table] += rows
                    nights.add(night)
                cursor.execute(f"SELECT count(*) FROM {table} WHERE {wanted}", (list(users),))
                left += _row(cursor)[0]
            if nights:
                place.make()
                place.log(sorted(nights), revisions)
        if removed:
            with self._explaining(), adbc.connect(self.uri, autocommit=True) as connection:
                connection.cursor().execute(f"VACUUM {', '.join(removed)}")
        return {
            "rows_removed": removed.total(),
            "nights_rewritten": len(nights),
            "left": left,
        }

    @contextmanager
    def _transaction(self) -> Iterator[adbc.Cursor]:
        """Commit what is done within the block, or nothing of it."""
        with (
            self._explaining(),
            adbc.connect(self.uri) as connection,
            connection.cursor() as cursor,
        ):
            # Whoever waited for the lock has to see what the one before has written.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            yield cursor
            connection.commit()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn what a person can mend into a sentence, and that the server is away into another.

        What the server says holds names, but neither the URI nor the password.
        """
        try:
            yield
        except (adbc.Error, OSError) as error:
            if refused := postgres.refusal(self.connection, error):
                raise PublishError(refused) from None
            if away := postgres.absence(self.connection, error):
                raise NotReadyError(away) from None
            if reason := postgres.fault(error):
                raise PublishError(
                    f"{self} cannot be published to ({reason}): nothing was changed; correct "
                    "publish.postgres_table, or let the database's owner mend or allow it"
                ) from None
            raise


class _Place:
    """The table as a transaction finds it, its schema known."""

    def __init__(self, target: PostgresTable, cursor: adbc.Cursor) -> None:
        self.target, self.cursor = target, cursor
        schema, _, self.name = target.table.rpartition(".")
        if schema:
            cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = $1", (schema,))
            [found] = _row(cursor)
        else:
            cursor.execute("SELECT current_schema()::text")
            [schema] = _row(cursor)
            found = schema is not None
        if not found:
            raise PublishError(
                f"{target} has no schema to be in: let the database's owner run "
                f"CREATE SCHEMA {schema or 'public'}, or correct publish.postgres_table"
            )
        self.schema: str = schema

    @property
    def sql(self) -> str:
        """The table's name, quoted."""
        return self._sql(self.name)

    def of(self, companion: contract.Companion) -> str:
        """Return the name of the table of what is published with the labels, quoted."""
        return self._sql(self.name + companion.suffix)

    def is_ours(self, companion: contract.Companion) -> bool:
        """Tell whether there is such a table, with the columns that publish gives it."""
        kind, there = self._columns(self.name + companion.suffix)
        promised = {column.name: column.postgres for column in companion.columns}
        return kind != "" and kind in TABLES and there == promised

    def lock(self) -> None:
        """Wait until nobody else writes to the table; it is this transaction's until its end."""
        key = f"hashtextextended({literal(f'labels in {self.schema}.{self.name}')}, 0)"
        self.cursor.execute(f"SELECT pg_try_advisory_xact_lock({key})")
        if not _row(self.cursor)[0]:
            log.info("%s: waiting until another run has published", self.target)
            self.cursor.execute(f"SELECT pg_advisory_xact_lock({key})::text")
            self.cursor.fetchall()

    def is_ready(self) -> bool:
        """Tell whether the table is there; PublishError when it or the view is something else."""
        there = self._holds(self.name, TABLES, "publish.postgres_table")
        self._holds(self.name + LATEST, VIEWS, "publish.postgres_table, whose view that would be")
        self._holds(self.name + NAMED, VIEWS, BESIDE, contract.named_columns())
        self._holds(
            self.name + LOG,
            TABLES,
            "publish.postgres_table, whose revisions that would be",
            contract.REVISIONS,
        )
        for companion in contract.COMPANIONS:
            if not companion.only_with_rows:
                self.is_there(companion)
        if there:
            self.cursor.execute(
                "SELECT coalesce(obj_description(to_regclass($1), 'pg_class'), '')", (self.sql,)
            )
            version = VERSION.search(_row(self.cursor)[0])
            if version and int(version[1]) != contract.VERSION:
                raise PublishError(
                    f"{self.target} has labels of contract version {version[1]}, and these are of "
                    f"version {contract.VERSION}: nothing was changed; name another table in "
                    "publish.postgres_table, or rename this one and its view"
                )
        return there

    def make(self) -> None:
        """Make what is missing: the tables with their indexes and comments, the views."""
        if not self.is_ready():
            about = f"One intent label a user a night, contract version {contract.VERSION}."
            self._make_table(self.name, contract.COLUMNS, "dt, user_id", about)
            self._run(f"CREATE INDEX ON {self.sql} (intent_id, dt)")
        if not self._columns(self.name + LOG)[1]:
            about = "One published revision of a night's labels: when, by which run, and why."
            self._make_table(self.name + LOG, contract.REVISIONS, "dt, revision", about)
        for companion in contract.COMPANIONS:
            if not companion.only_with_rows:
                self.make_of(companion)
        if not self._columns(self.name + LATEST)[1]:
            view, columns = self._sql(self.name + LATEST), list(contract.NAMES)
            self._run(
                f"CREATE VIEW {view} AS SELECT {', '.join(columns)} FROM {self.sql} "
                f"WHERE dt = (SELECT max(dt) FROM {self.sql})",
                f"COMMENT ON VIEW {view} IS 'The newest published night.'",
            )
        if not self._columns(self.name + NAMED)[1]:
            view = self._sql(self.name + NAMED)
            chosen = (f"{self._sql(self.name + of)}.{name}" for name, of in contract.NAMED.items())
            profiles, evidence = (
                self._sql(self.name + "_profiles"),
                self._sql(self.name + "_evidence"),
            )
            self._run(
                f"CREATE VIEW {view} AS SELECT {', '.join(chosen)} FROM {self.sql} "
                f"LEFT JOIN {profiles} ON {profiles}.dt = {self.sql}.dt "
                f"AND {profiles}.intent_id = {self.sql}.intent_id "
                f"LEFT JOIN {evidence} ON {evidence}.dt = {self.sql}.dt "
                f"AND {evidence}.user_id = {self.sql}.user_id "
                f"WHERE {self.sql}.dt = (SELECT max(dt) FROM {self.sql})",
                f"COMMENT ON VIEW {view} IS {literal(contract.ABOUT_NAMED)}",
                *self._comments(view, contract.named_columns()),
            )

    def make_of(self, companion: contract.Companion) -> None:
        """Make the table of what is published with the labels, if it is missing."""
        if not self.is_there(companion):
            name, key = self.name + companion.suffix, ", ".join(companion.key)
            self._make_table(name, companion.columns, key, companion.table.row)
            if not key:
                self._run(f"CREATE INDEX ON {self._sql(name)} (dt)")

    def is_there(self, companion: contract.Companion) -> bool:
        """Tell whether there is the table of what is published with the labels.

        Raises PublishError when something else is there, or its name would be longer than the
        server takes.
        """
        name = self.name + companion.suffix
        if len(name) > LONGEST:
            raise PublishError(
                f"{self.schema}.{name} of connection {self.target.connection} would have a name of "
                f"{len(name)} letters, and PostgreSQL takes {LONGEST}: nothing was changed; name a "
                f"shorter publish.postgres_table, or do without {companion.name}"
            )
        return self._holds(name, TABLES, BESIDE, companion.columns)

    def log(self, nights: Sequence[dt.date], revisions: pa.Table) -> None:
        """Make these revisions those of the nights."""
        self.cursor.execute(
            f"DELETE FROM {self._sql(self.name + LOG)} WHERE dt = ANY($1)", (list(nights),)
        )
        of_nights = revisions.filter(
            pc.is_in(revisions["dt"], value_set=pa.array(nights, pa.date32()))
        )
        if of_nights.num_rows:
            self.cursor.adbc_ingest(
                self.name + LOG, of_nights, mode="append", db_schema_name=self.schema
            )

    def _make_table(
        self, name: str, columns: Sequence[contract.Column], key: str, about: str
    ) -> None:
        table = self._sql(name)
        declared = [
            f"{column.name} {column.postgres}{'' if column.nullable else ' NOT NULL'}"
            for column in columns
        ]
        if key:
            declared.append(f"PRIMARY KEY ({key})")
        self._run(
            f"CREATE TABLE {table} ({', '.join(declared)})",
            f"COMMENT ON TABLE {table} IS {literal(about)}",
            *self._comments(table, columns),
        )

    def _comments(self, relation: str, columns: Sequence[contract.Column]) -> Iterator[str]:
        for column in columns:
            yield f"COMMENT ON COLUMN {relation}.{column.name} IS {literal(column.means)}"

    def _holds(
        self,
        name: str,
        kinds: str,
        setting: str,
        columns: Sequence[contract.Column] = contract.COLUMNS,
    ) -> bool:
        """Tell whether there is such a relation, after making sure that it is as promised."""
        kind, there = self._columns(name)
        promised = {column.name: column.postgres for column in columns}
        faults = [
            f"{column} is {there.get(column, 'missing')} instead of {promised.get(column, 'none')}"
            for column in dict.fromkeys([*promised, *there])
            if there.get(column) != promised.get(column)
        ]
        if there and (kind not in kinds or faults):
            faults = faults or [f"it is no {'table' if kinds == TABLES else 'view'}"]
            raise PublishError(
                f"{self.schema}.{name} of connection {self.target.connection} is not as publish "
                f"makes it ({'; '.join(faults)}): nothing was changed; correct {setting}, or "
                "rename what is there"
            )
        return bool(there)

    def _columns(self, name: str) -> tuple[str, dict[str, str]]:
        """Return the kind of a relation and the types of its columns; none if it is not there."""
        self.cursor.execute(
            "SELECT c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT attisdropped "
            "WHERE n.nspname = $1 AND c.relname = $2",
            (self.schema, name),
        )
        found = self.cursor.fetchall()
        return (found[0][0] if found else ""), {column: kind for _, column, kind in found}

    def _sql(self, name: str) -> str:
        return f"{identifier(self.schema)}.{identifier(name)}"

    def _run(self, *statements: str) -> None:
        for statement in statements:
            self.cursor.execute(statement)


def _row(cursor: adbc.Cursor) -> tuple[Any, ...]:
    row: tuple[Any, ...]
    [row] = cursor.fetchall()
    return row


def _rows_of(companion: contract.Companion) -> str:
    """Return a query of the rows as the columns in PostgreSQL take them.

    Titles and categories are anybody's text. NUL, which PostgreSQL cannot hold, is left out of it.
    """
    chosen = []
    for column in companion.columns:
        if column.postgres == contract.NESTED:
            chosen.append(f"to_json({column.name})::VARCHAR AS {column.name}")
        elif column.postgres == "text" and column.name != "user_id":
            chosen.append(f"replace({column.name}, chr(0), '') AS {column.name}")
        else:
            chosen.append(column.name)
    order = ", ".join(companion.key or ("dt",))
    return f"SELECT {', '.join(chosen)} FROM {companion.name} ORDER BY {order}"
