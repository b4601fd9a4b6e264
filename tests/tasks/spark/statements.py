"""The cases of `sql/spark/`, which are written as those of `sql/` are.

A statement that is named like one of `sql/` has the same cases, for it makes the same; of any other
they are in `tests/sql/spark/`.
"""

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from tests.sql import test_statements as of_duckdb

STATEMENTS = {file.stem: file for file in sorted((of_duckdb.SQL / "spark").glob("*.sql"))}
OWN = {file.stem: file for file in sorted((of_duckdb.HERE / "spark").glob("*.yaml"))}
FIXTURES = {name: OWN[name] if name in OWN else of_duckdb.FIXTURES.get(name) for name in STATEMENTS}


def cases() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each case with the name of its statement and the file that it is in."""
    for name, file in FIXTURES.items():
        if file:
            fixture = yaml.safe_load(file.read_text("utf-8"))
            for case in fixture["cases"]:
                yield name, fixture, case


def tables_of(fixture: dict[str, Any], case: dict[str, Any]) -> tuple[dict[str, pa.Table], Any]:
    """Return the inputs of a case, and the rows that are expected, in an order."""
    with duckdb.connect(config={"autoload_known_extensions": False, "threads": 1}) as con:
        con.execute("SET TimeZone = 'UTC'")
        given = case.get("given", {})
        for table, columns in fixture.get("inputs", {}).items():
            of_duckdb.fill(con, table, columns, given.get(table, []))
        of_duckdb.fill(con, "expected", fixture["output"], case["expected"])
        inputs = {name: con.table(name).to_arrow_table() for name in fixture.get("inputs", {})}
        return inputs, con.table("expected").to_arrow_table()
