"""The page for readers of the labels: its table is the contract, and its queries run."""

import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pytest

from tasks.night.publish import publish
from tasks.settings import REPO, Settings, load_settings
from tasks.targets import contract
from tests.servers import postgres
from tests.tasks.labels import labels_of, write_companions, write_labels

PAGE = (REPO / "docs" / "labels.md").read_text("utf-8")
RECOMMENDATIONS = (REPO / "docs" / "howto" / "recommend.md").read_text("utf-8")
NIGHT = dt.date(2026, 11, 20)
# Of six labels, every third without an intent, the others in turns 0 and 1 and sure enough.
SURE = [(0, 2), (1, 2)]


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give settings with two nights published to where the page reads them."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        lake={"root": tmp_path / "lake"},
        publish={"parquet": str(tmp_path / "published")},
        duckdb={"threads": 1},
    )
    publish_two_nights(settings)
    return settings


def publish_two_nights(settings: Settings) -> None:
    for night, users in ((NIGHT - dt.timedelta(days=1), 20), (NIGHT, 6)):
        labels = labels_of(night, [f"u{number}" for number in range(users)])
        write_labels(settings, night, labels)
        write_companions(settings, night, labels, "Garden" if night == NIGHT else "Old")
        publish(settings, night)


def test_the_table_of_columns_is_the_contract() -> None:
    rows = [
        f"| `{column.name}` | {_short(column.type)} | {'yes' if column.nullable else 'no'} "
        f"| {column.means} |"
        for column in contract.COLUMNS
    ]
    assert "\n".join(["| --- | --- | --- | --- |", *rows, ""]) in PAGE
    assert f"Version {contract.VERSION}. " in PAGE


def _short(kind: object) -> str:
    return {"date32[day]": "date", "float": "float32"}.get(str(kind), str(kind))


def test_the_query_in_polars_runs(settings: Settings) -> None:
    [polars, _, _] = blocks("python")
    names: dict[str, object] = {}
    exec(polars, names)
    assert names["sure"].rows() == SURE


def test_the_query_in_duckdb_runs(settings: Settings) -> None:
    [_, duckdb, _] = blocks("python")
    names: dict[str, object] = {}
    exec(duckdb, names)
    assert names["sure"] == SURE


def test_the_query_of_what_belongs_to_labels_runs(settings: Settings) -> None:
    [_, _, query] = blocks("python")
    names: dict[str, object] = {}
    exec(query, names)
    assert names["names"] == [(0, "Garden 0"), (1, "Garden 1")]


def test_the_query_of_recommendations_runs(settings: Settings) -> None:
    [query] = blocks("python", RECOMMENDATIONS)
    names: dict[str, Any] = {}
    exec(query.replace("lakes/by-hand", str(settings.lake.root)), names)
    found = names["first_three"]
    assert found.columns == ["user_id", "item_id", "score"]
    assert found.filter(user_id="u1")["score"].to_list() == [1.5, -0.5]


def test_the_queries_in_sql_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [toml], [query, named] = blocks("toml"), blocks("sql")
    given = tomllib.loads(toml)
    settings = load_settings(lake={"root": tmp_path / "lake"}, **given)
    with postgres() as server, adbc.connect(server, autocommit=True) as connection:
        name = given["publish"]["postgres_connection"].upper()
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", server)
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA analytics")
            publish_two_nights(settings)
            cursor.execute(query)
            assert cursor.fetchall() == SURE
            cursor.execute(named)
            assert cursor.fetchall() == [("Garden 0", 2), ("Garden 1", 2)]
            [recommended] = blocks("sql", RECOMMENDATIONS)
            cursor.execute(recommended)
            assert cursor.fetchall()[1] == ("u0", "i1", -0.5, 2)
