"""Every statement of `sql/` gives the rows that its header promises, on small tables.

The cases of `sql/<name>.sql` are in `<name>.yaml` here:

    inputs:       the tables that the statement reads, each with its columns as SQL declares them
    variables:    the types of the variables that it reads
    types:        types that must be there, each with its definition
    output:       the columns that it gives, and their types
    in_order:     true where the order of the rows is part of what it promises
    through:      a query of the table `made`, where the rows themselves cannot be foretold
    cases:        a list; of each case
      name:       what it shows
      given:      the rows of the inputs; a table that is not named is empty
      variables:  their values
      parameters: the values of the parameters ($night)
      expected:   the rows of the output

A row is a list of all its values, or a map of those that are not null. In place of the rows of an
input there may be a query. What is written for a column or a variable is cast by DuckDB, so a time
may be written as text. Of a statement that makes or changes a table or a view, the rows of that are
looked at afterwards.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

HERE = Path(__file__).resolve().parent
SQL = HERE.parents[1] / "sql"

STATEMENTS = {file.stem: file for file in sorted(SQL.glob("*.sql"))}
FIXTURES = {file.stem: file for file in sorted(HERE.glob("*.yaml"))}

KEYS = {"inputs", "variables", "types", "output", "in_order", "through", "cases"}
CASE_KEYS = {"name", "given", "variables", "parameters", "expected"}
Row = list[Any] | dict[str, Any]

MADE = re.compile(
    r"^(?:CREATE OR REPLACE (?:TEMP )?(?:TABLE|VIEW)|INSERT INTO|DELETE FROM) (\w+)", re.MULTILINE
)


def cases() -> Iterator[Any]:
    for name in sorted(FIXTURES.keys() & STATEMENTS.keys()):
        fixture = yaml.safe_load(FIXTURES[name].read_text("utf-8"))
        assert not fixture.keys() - KEYS, f"{name}.yaml: unknown {fixture.keys() - KEYS}"
        for case in fixture["cases"]:
            yield pytest.param(name, fixture, case, id=f"{name}: {case['name']}")


@pytest.mark.parametrize(("name", "fixture", "case"), list(cases()))
def test_a_statement_gives_the_rows_of_its_case(
    name: str, fixture: dict[str, Any], case: dict[str, Any]
) -> None:
    assert not case.keys() - CASE_KEYS, f"unknown {case.keys() - CASE_KEYS}"
    statement = STATEMENTS[name].read_text("utf-8")
    with duckdb.connect(config={"autoload_known_extensions": False, "threads": 1}) as con:
        con.execute("SET TimeZone = 'UTC'")
        for type_name, definition in fixture.get("types", {}).items():
            con.execute(f"CREATE TYPE {type_name} AS {definition}")
        for variable, kind in fixture.get("variables", {}).items():
            value = case["variables"][variable]
            con.execute(f"SET VARIABLE {variable} = CAST($value AS {kind})", {"value": value})
        given = case.get("given", {})
        assert not given.keys() - fixture.get("inputs", {}).keys(), "a table without columns"
        for table, columns in fixture.get("inputs", {}).items():
            fill(con, table, columns, given.get(table, []))
        parameters = case.get("parameters", {})
        if made := MADE.search(statement):
            con.execute(statement, parameters)
            con.execute(f"CREATE TABLE made AS FROM {made[1]}")
        else:
            con.execute(f"CREATE TABLE made AS\n{statement}", parameters)
        fill(con, "expected", fixture["output"], case["expected"])
        found, expected = con.sql(fixture.get("through", "FROM made")), con.table("expected")
        assert columns_of(found) == columns_of(expected)
        rows, wanted = ([plain(row) for row in table.fetchall()] for table in (found, expected))
        if not fixture.get("in_order", False):
            rows, wanted = sorted(rows, key=repr), sorted(wanted, key=repr)
        assert rows == wanted


def test_every_statement_has_cases_and_every_case_a_statement() -> None:
    assert sorted(STATEMENTS.keys() - FIXTURES.keys()) == [], "statements without a file here"
    assert sorted(FIXTURES.keys() - STATEMENTS.keys()) == [], "files here without a statement"


def fill(con: duckdb.DuckDBPyConnection, table: str, columns: str, rows: list[Row] | str) -> None:
    """Create a table and put rows into it in their order, or those that a query gives."""
    con.execute(f"CREATE TABLE {table} ({columns})")
    if isinstance(rows, str):
        con.execute(f"INSERT INTO {table} {rows}")
        return
    names, types = con.table(table).columns, con.table(table).types
    values = ", ".join(f"CAST(? AS {kind})" for kind in types)
    for row in rows:
        if isinstance(row, dict):
            assert not row.keys() - set(names), f"{table} has no {row.keys() - set(names)}"
            row = [row.get(name) for name in names]
        assert len(row) == len(names), f"{table} has the columns {names}, not the values {row}"
        con.execute(f"INSERT INTO {table} VALUES ({values})", row)


def columns_of(relation: duckdb.DuckDBPyRelation) -> list[tuple[str, str]]:
    """Return name and type of each column."""
    return [(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]


def plain(value: Any) -> Any:
    """Return a value in which floats that differ in the seventh digit only are the same."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value
