"""The sources for dbt are what dbt reads, and what publish makes."""

from typing import Any

import pytest
import yaml

from docs import reference
from tasks.targets import contract

FILE = reference.FOLDER / "sources.yml"
# The tests that are used, and the arguments that each takes.
ARGUMENTS = {
    "not_null": set(),
    "unique": set(),
    "accepted_values": {"values"},
    "relationships": {"to", "field"},
    "dbt_utils.accepted_range": {"min_value", "max_value"},
    "dbt_utils.unique_combination_of_columns": {"combination_of_columns"},
}


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    """Read the file, and give the tables of its one source by name."""
    read = yaml.safe_load(FILE.read_text("utf-8"))
    assert set(read) == {"version", "sources"} and read["version"] == 2
    [source] = read["sources"]
    assert set(source) == {"name", "description", "schema", "tables"}
    return {table["name"]: table for table in source["tables"]}


def each_test(tables: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any] | None, Any]]:
    """Return each test with its table and, unless it is of the whole table, its column."""
    found: list[tuple[dict[str, Any], dict[str, Any] | None, Any]] = []
    for table in tables.values():
        found += [(table, None, test) for test in table.get("data_tests", [])]
        for column in table["columns"]:
            found += [(table, column, test) for test in column.get("data_tests", [])]
    return found


def test_every_table_view_and_column_that_publish_makes_is_described(
    tables: dict[str, Any],
) -> None:
    made = {
        "intent_labels": contract.COLUMNS,
        "intent_labels_latest": contract.COLUMNS,
        "intent_labels_named": contract.named_columns(),
        "intent_labels_log": contract.REVISIONS,
    } | {f"intent_labels{one.suffix}": one.columns for one in contract.COMPANIONS}
    assert set(tables) == set(made)
    for name, columns in made.items():
        assert tables[name]["description"]
        described = [
            (column["name"], column["data_type"], column["description"])
            for column in tables[name]["columns"]
        ]
        assert described == [(column.name, column.postgres, column.means) for column in columns]


def test_only_tables_that_a_target_may_do_without_are_left_out_unless_asked_for(
    tables: dict[str, Any],
) -> None:
    optional = {f"intent_labels{one.suffix}" for one in contract.COMPANIONS if one.only_with_rows}
    asked = {name: table["config"] for name, table in tables.items() if "config" in table}
    enabled = {"enabled": "{{ var('elcrec_recommendations', false) }}"}
    assert asked == dict.fromkeys(optional, enabled)


def test_every_test_is_one_that_there_is_and_names_columns_that_there_are(
    tables: dict[str, Any],
) -> None:
    columns = {
        name: {column["name"] for column in table["columns"]} for name, table in tables.items()
    }
    seen = set()
    for table, column, test in each_test(tables):
        [(kind, given)] = test.items() if isinstance(test, dict) else [(test, {"arguments": {}})]
        arguments = given["arguments"]
        assert set(given) == {"arguments"} and set(arguments) <= ARGUMENTS[kind], test
        assert bool(arguments) == bool(ARGUMENTS[kind]), test
        assert (column is None) == (kind == "dbt_utils.unique_combination_of_columns"), test
        if kind == "relationships":
            other = arguments["to"].removeprefix("source('elcrec', '").removesuffix("')")
            assert arguments["field"] in columns[other], test
        assert set(arguments.get("combination_of_columns", [])) <= columns[table["name"]], test
        seen.add(kind)
    assert seen == set(ARGUMENTS)


def test_every_table_with_a_key_has_a_test_of_it(tables: dict[str, Any]) -> None:
    without = set(tables)
    for table, _, test in each_test(tables):
        if test == "unique" or "dbt_utils.unique_combination_of_columns" in test:
            without.discard(table["name"])
    assert without == {"intent_labels_flows"}
