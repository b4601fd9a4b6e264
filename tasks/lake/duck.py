"""DuckDB as the steps use it: one connection a step, statements from `sql/`."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import IO, Any

import duckdb

from tasks.settings import REPO, Settings

SQL = REPO / "sql"


def connect(settings: Settings, database: Path | str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Open a DuckDB, in memory by default, that spills to disk, works in UTC, downloads nothing."""
    con = duckdb.connect(str(database), config=config(settings))
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET enable_progress_bar = false")
    return con


def config(settings: Settings) -> dict[str, str | bool | int | float | list[str]]:
    """Return DuckDB's options for these settings."""
    options: dict[str, str | bool | int | float | list[str]] = {
        # Parquet, JSON and ICU are built in; any other extension would be a download at run time.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "threads": settings.duckdb.threads or os.cpu_count() or 1,
        "temp_directory": settings.duckdb.temp_directory or str(_spill_folder()),
    }
    if settings.duckdb.memory_limit:
        options["memory_limit"] = settings.duckdb.memory_limit
    return options


def spill_file(settings: Settings) -> IO[bytes]:
    """Open a file for what waits outside of memory; without a name, it goes when it is closed."""
    folder = settings.duckdb.temp_directory or None
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


@cache
def sql(name: str) -> str:
    """Return the statement `sql/<name>.sql`; its parameters are bound ($night), never formatted."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def set_variables(con: duckdb.DuckDBPyConnection, values: Any) -> None:
    """Give variables the values of a named tuple: statements read them with getvariable."""
    for name, value in values._asdict().items():
        con.execute(f"SET VARIABLE {identifier(name)} = $value", {"value": value})


def literal(text: str) -> str:
    """Quote a string as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _spill_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"elcrec-duckdb-{os.getpid()}"


def one_row(con: duckdb.DuckDBPyConnection, statement: str) -> dict[str, Any]:
    """Return the one row of a statement by its columns."""
    result = con.execute(statement)
    names = [column[0] for column in result.description or []]
    (row,) = result.fetchall()  # all: with a row left, nothing can be registered
    return dict(zip(names, row, strict=True))
