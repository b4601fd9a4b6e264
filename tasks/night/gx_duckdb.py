"""A SQLAlchemy dialect for DuckDB that Great Expectations can read results from.

Great Expectations fetches the rows of a result after it has given the connection back, and fails
with "list index out of range" on every expectation: a DuckDB cursor is its connection, whose
rows are gone with the next statement. `BufferedDialect` takes all rows of a result as soon as its
statement has run. The results are small here, for the figures are computed inside DuckDB.

Use it by URL, after `register`: `duckdb+buffered:///path/to.duckdb`.

A process that has imported both ends with "nanobind: leaked ..." from DuckDB's binding, even when
no engine was ever made. Great Expectations imports jsonschema, whose registry of schemas lives in
maps (rpds) that Python's garbage collector cannot look into; it outlives the interpreter and keeps
alive what this dialect refers to, DuckDB's types among it. Nothing is lost by it.
"""

from duckdb_engine import Dialect
from sqlalchemy.dialects import registry
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy


class BufferedExecutionContext(Dialect.execution_ctx_cls):  # type: ignore[misc]
    """Takes the rows of a result from the cursor before anyone else uses the connection."""

    def post_exec(self) -> None:
        """Buffer the rows of the statement that has just run."""
        super().post_exec()
        if self.cursor.description:
            self.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(
                self.cursor, initial_buffer=self.cursor.fetchall()
            )


class BufferedDialect(Dialect):  # type: ignore[misc]
    """DuckDB's dialect with buffered results."""

    execution_ctx_cls = BufferedExecutionContext
    supports_statement_cache = False


def register() -> None:
    """Make the dialect known to SQLAlchemy under `duckdb+buffered`."""
    registry.register("duckdb.buffered", __name__, BufferedDialect.__name__)
