"""DuckDB as the steps use it: one connection a step, statements from `sql/`."""

import os
import tempfile
from functools import cache
from pathlib import Path

import duckdb

from tasks.settings import REPO, Settings

SQL = REPO / "sql"


def connect(settings: Settings) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that spills to disk, works in UTC and downloads nothing."""
    config: dict[str, str | bool | int | float | list[str]] = {
        # Parquet, JSON and ICU are built in; any other extension would be a download at run time.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "threads": settings.duckdb.threads or os.cpu_count() or 1,
        "temp_directory": settings.duckdb.temp_directory or str(_spill_folder()),
    }
    if settings.duckdb.memory_limit:
        config["memory_limit"] = settings.duckdb.memory_limit
    con = duckdb.connect(":memory:", config=config)
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET enable_progress_bar = false")
    return con


@cache
def sql(name: str) -> str:
    """Return the statement `sql/<name>.sql`; its parameters are bound ($night), never formatted."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def literal(text: str) -> str:
    """Quote a string as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _spill_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"elcrec-duckdb-{os.getpid()}"
