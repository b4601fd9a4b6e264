"""PostgreSQL as a source: real rows of a real server, its windows, its refusals, its secrets."""

import datetime as dt
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import pytest

from tasks import duck, tables
from tasks.connections import looked_up_by
from tasks.errors import NightError, PipelineError, SettingsError, SourceError
from tasks.ingest import ingest, latest_night
from tasks.lake import Lake
from tasks.settings import Settings, load_settings
from tasks.sources import postgres, source_of
from tests.servers import free_port
from tests.servers import postgres as running_postgres

NIGHT = dt.date(2026, 11, 2)
MIDNIGHT = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
WANTED = ["user_id", "item_id", "ts", "event_type", "weight"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_postgres() as uri:
        yield uri


@pytest.fixture
def sql(server: str) -> Callable[[str], None]:
    """Run statements; the tables of a test are in the schema `shop`, new for each test."""

    def run(*statements: str) -> None:
        with adbc.connect(server, autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    run("DROP SCHEMA IF EXISTS shop CASCADE", "CREATE SCHEMA shop")
    return run


@pytest.fixture(autouse=True)
def _connection(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_EVENTS_DB", server)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    def given(late_days: int = 3, lake: str = "lake", **source: Any) -> Settings:
        table = {} if "query" in source else {"table": "shop.events"}
        return load_settings(
            source={"kind": "postgres", "connection": "events_db", **table, **source},
            ingest={"late_days": late_days},
            lake={"root": tmp_path / lake},
            duckdb={"threads": 2},
        )

    return given


def events_of(settings: Settings) -> list[tuple[Any, ...]]:
    events = Lake(settings.lake.root).scan(tables.EVENTS)
    return list(events.sort("ts", "row_number").select(WANTED).collect().iter_rows())


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


FEW = """
    INSERT INTO shop.events VALUES
        ('ann', 1, '2026-11-01 23:59:59.999999+00', 'view', 1.5),
        ('böb', 2, '2026-11-02 00:00:00+00', NULL, NULL),
        ('ann', 3, '2026-11-03 04:29:59+05:30', 'buy', 'NaN'),
        ('ann', 3, '2026-11-03 04:29:59+05:30', 'buy', 'NaN'),
        ('ann', 4, '2026-11-03 00:00:00+00', 'view', 1)
"""
TABLE = """
    CREATE TABLE shop.events
        (user_id text, item_id int, ts timestamptz, event_type text, rating numeric)
"""
OF_NIGHT = [
    ("böb", "2", MIDNIGHT, "event", None),
    ("ann", "3", at("2026-11-02 22:59:59"), "buy", None),
]


def test_a_night_takes_the_rows_of_its_day_and_the_first_one_all_before(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(TABLE, FEW)
    summary = ingest(settings(), NIGHT)
    before = ("ann", "1", at("2026-11-01 23:59:59.999999"), "view", 1.5)
    assert events_of(settings()) == [before, *OF_NIGHT]
    assert summary["rows_read"] == 4  # not the one of the night after
    assert summary["rows_duplicate"] == 1
    again = ingest(settings(), NIGHT)
    assert again == summary
    assert events_of(settings()) == [before, *OF_NIGHT]
    assert ingest(settings(late_days=0), NIGHT + DAY)["rows_read"] == 1
    assert latest_night(settings()) == NIGHT + DAY


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("timestamp", "{} AT TIME ZONE 'UTC'"),
        ("timestamptz", "{}"),
        ("bigint", "extract(epoch FROM {})"),
        ("bigint", "extract(epoch FROM {}) * 1000"),
        ("numeric", "extract(epoch FROM {}) * 1000000"),
        ("bigint", "extract(epoch FROM {}) * 1000000000"),
        ("double precision", "extract(epoch FROM {})"),
        ("date", "({} AT TIME ZONE 'UTC')::date"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_a_time_of_any_type_is_asked_for_by_night(
    sql: Callable[..., None], settings: Callable[..., Settings], kind: str, value: str, zone: str
) -> None:
    sql(
        f"ALTER DATABASE postgres SET TimeZone = '{zone}'",
        f'CREATE TABLE shop.events ("user" uuid, item bigint, time {kind})',
        "INSERT INTO shop.events SELECT '00000000-0000-0000-0000-00000000000a', n, "
        + value.format("t")
        + " FROM (SELECT n, timestamptz '2026-10-20 00:00+00' + n * interval '6 hours' AS t"
        " FROM generate_series(0, 79) AS n) AS made",
        # No night asks for these: they are told once.
        "INSERT INTO shop.events VALUES ('00000000-0000-0000-0000-00000000000b', 1, NULL)",
    )
    sql("ALTER DATABASE postgres RESET TimeZone") if zone == "UTC" else None
    assert ingest(settings(), NIGHT)["rows_quarantined"] == 1
    summary = ingest(settings(late_days=1), NIGHT + DAY)
    assert summary["rows_read"] == 4 + 4 + 1  # its day, the one behind, the one without a time
    assert (summary["rows_events"], summary["rows_quarantined"]) == (4, 0)
    assert (summary["rows_late"], summary["rows_other_nights"]) == (0, 5)
    events = Lake(settings().lake.root).scan(tables.EVENTS, first=NIGHT + DAY).collect()
    assert events.height == 4
    hours = {moment.hour for moment in events["ts"]}
    assert hours == ({0} if kind == "date" else {0, 6, 12, 18})
    assert set(events["user_id"]) == {"00000000-0000-0000-0000-00000000000a"}
