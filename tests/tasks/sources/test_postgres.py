"""PostgreSQL as a source: real rows of a real server, its windows, its refusals, its secrets."""

import datetime as dt
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import adbc_driver_postgresql.dbapi as adbc
import pytest

from tasks.connections import looked_up_by
from tasks.errors import NightError, NotReadyError, PipelineError, SourceError
from tasks.lake import Lake, duck, tables
from tasks.night.ingest import ingest, latest_night
from tasks.settings import REPO, Settings, load_settings
from tasks.sources import postgres, source_of
from tasks.sources.catalogue import Catalogue, opened
from tests.servers import postgres as running_postgres
from tests.servers import postgres_server

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
    run("ALTER DATABASE postgres RESET TimeZone")
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
def test_a_time_of_any_type_is_asked_for_by_night(
    sql: Callable[..., None], settings: Callable[..., Settings], kind: str, value: str
) -> None:
    sql(
        "ALTER DATABASE postgres SET TimeZone = 'Asia/Kolkata'",  # UTC is UTC all the same
        f'CREATE TABLE shop.events ("user" uuid, item bigint, time {kind})',
        "INSERT INTO shop.events SELECT '00000000-0000-0000-0000-00000000000a', n, "
        + value.format("t")
        + " FROM (SELECT n, timestamptz '2026-10-20 00:00+00' + n * interval '6 hours' AS t"
        " FROM generate_series(0, 79) AS n) AS made",
        # No night asks for these: they are told once.
        "INSERT INTO shop.events VALUES ('00000000-0000-0000-0000-00000000000b', 1, NULL)",
    )
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


@pytest.mark.parametrize("kind", ["bigint", "numeric"])
def test_nanoseconds_just_before_midnight_stay_in_their_night(
    sql: Callable[..., None], settings: Callable[..., Settings], kind: str
) -> None:
    """As floats they would be midnight, and no night would have them."""
    last = int(dt.datetime(2026, 11, 3, tzinfo=dt.UTC).timestamp()) * 10**9 - 1
    sql(
        f"CREATE TABLE shop.events (user_id text, item_id text, ts {kind})",
        f"INSERT INTO shop.events VALUES ('ann', 'a', {last}), ('bob', 'b', {last + 1})",
    )
    ingest(settings(late_days=0), NIGHT)
    ingest(settings(late_days=0), NIGHT + DAY)
    events = Lake(settings().lake.root).scan(tables.EVENTS).sort("dt").collect()
    assert events.select("dt", "user_id").rows() == [(NIGHT, "ann"), (NIGHT + DAY, "bob")]


def test_times_that_no_night_asks_for_go_to_quarantine_once(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(
        "CREATE TABLE shop.events (user_id text, item_id text, ts timestamptz)",
        "INSERT INTO shop.events SELECT 'ann', 'a', timestamptz '2026-11-02 10:00+00' + d * "
        "interval '1 day' FROM generate_series(0, 1) AS d, generate_series(1, 8)",
        """INSERT INTO shop.events VALUES
            ('bob', 'a', 'infinity'), ('bob', 'a', '-infinity'), ('bob', 'a', '294000-01-01'),
            ('bob', 'a', '1969-12-31 23:59:59+00'), ('bob', 'a', NULL), (' ', 'a', '2026-11-02')""",
    )
    assert ingest(settings(), NIGHT)["rows_quarantined"] == 6
    assert ingest(settings(), NIGHT + DAY)["rows_quarantined"] == 0
    rejects = Lake(settings().lake.root).scan(tables.QUARANTINE).collect()
    assert (
        sorted(rejects["reason"])
        == ["no time", "no user"] + ["time lies outside of 1970 to 2199"] * 4
    )
    assert any('"ts":"infinity"' in raw for raw in rejects["raw"])


def test_the_order_of_rows_in_the_table_changes_nothing(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(TABLE, FEW, "INSERT INTO shop.events VALUES ('ann', 9, '2026-11-02 22:59:59', 'buy', 2)")
    seen = []
    for lake, order in enumerate(("item_id", "item_id DESC, user_id")):
        sql(
            f"CREATE TABLE shop.sorted AS SELECT * FROM shop.events ORDER BY {order}",
            "DROP TABLE shop.events",
            "ALTER TABLE shop.sorted RENAME TO events",
        )
        given = settings(lake=f"lake{lake}")
        ingest(given, NIGHT)
        seen.append(Lake(given.lake.root).scan(tables.EVENTS).collect().sort("ts", "row_number"))
    assert seen[0].equals(seen[1])
    assert seen[0]["row_number"].is_between(0, (1 << 40) - 1).all()


def test_a_row_without_a_user_is_of_its_session(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(
        "CREATE TABLE shop.events (visit int, item_id text, ts timestamptz, user_id text)",
        "INSERT INTO shop.events VALUES (17, 'a', '2026-11-02 01:00Z', NULL), "
        "(17, 'b', '2026-11-02 02:00Z', 'ann')",
    )
    ingest(settings(session_columns=["visit"]), NIGHT)
    assert [event[:2] for event in events_of(settings())] == [("session:17", "a"), ("ann", "b")]


def test_a_late_row_comes_into_its_own_day_and_a_backfill_brings_the_same(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(TABLE, FEW)
    ingest(settings(), NIGHT)
    sql("INSERT INTO shop.events VALUES ('cid', 7, '2026-11-02 08:00:00+00', 'view', 1)")
    summary = ingest(settings(), NIGHT + DAY)
    assert summary["changed_nights"] == {"2026-11-02": 1}
    nightly = events_of(settings())
    ingest(settings(), NIGHT)
    assert events_of(settings()) == nightly
    fresh = settings(lake="fresh")
    ingest(fresh, NIGHT)
    ingest(fresh, NIGHT + DAY)
    assert events_of(fresh) == nightly


def test_a_query_is_read_like_a_table_from_one_state_that_it_cannot_change(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(TABLE, FEW)
    query = """
        SELECT user_id, item_id, ts, rating,
            current_setting('transaction_isolation') || ', read only '
            || current_setting('transaction_read_only') AS event
        FROM shop.events WHERE user_id <> 'böb';  -- nobody else"""
    given = settings(query=query.replace(";", ""))
    ingest(given, NIGHT)
    assert {row[3] for row in events_of(given)} == {"repeatable read, read only on"}
    sources = Lake(given.lake.root).scan(tables.EVENTS).collect()["source"]
    assert set(sources) == {"events_db:query"}


def test_rows_come_over_in_batches(
    sql: Callable[..., None], settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    copy = postgres._copy

    def counted(con: Any, reader: Any) -> None:
        def batches() -> Iterator[Any]:
            for batch in reader:
                sizes.append(batch.nbytes)
                yield batch

        copy(con, type(reader).from_batches(reader.schema, batches()))

    monkeypatch.setattr(postgres, "_copy", counted)
    query = """
        SELECT repeat('u', 200) || n AS user_id, n AS item_id, timestamptz '2026-11-02' AS ts
        FROM generate_series(1, 300000) AS n"""
    assert ingest(settings(query=query), NIGHT)["rows_events"] == 300_000
    assert len(sizes) >= 4
    assert max(sizes) < 40e6


ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no connection named": ({"connection": ""}, ["source.connection is not set", "Airflow"]),
    "no such connection": ({"connection": "other"}, ["no connection other", "AIRFLOW_CONN_OTHER"]),
    "neither table nor query": ({"table": ""}, ["source.table", "source.query", "exactly one"]),
    "both": ({"table": "shop.events", "query": "SELECT 1"}, ["exactly one"]),
    "no such table": (
        {"table": "shop.evnts"},
        ["table shop.evnts of connection events_db", "does not exist", "source.table"],
    ),
    "no such schema": ({"table": "shp.events"}, ["shp.events", "does not exist"]),
    "a table name that is SQL": (
        {"table": 'shop.events"; DROP TABLE events; --'},
        ["DROP TABLE", "does not exist", "source.table"],
    ),
    "a table of another database": ({"table": "a.b.c"}, ["cross-database", "source.table"]),
    "no such column": (
        {"user_columns": ["customer"]},
        ["no column customer", "it has user_id, item_id, ts", "source.user_columns"],
    ),
    "a time that is text": ({"time_columns": ["event_type"]}, ["type text", "no time", "cast"]),
    "times that are short floats": (
        {"query": "SELECT user_id, item_id, 1793600000::real AS ts FROM shop.events"},
        ["floats of 32 bits", "source.time_columns"],
    ),
    "numbers that are no times": (
        {"time_columns": ["rating"]},
        ["around 2", "in no unit", "source.time_unit"],
    ),
    "a query with a mistake": ({"query": "SELEC 1"}, ["syntax error", "source.query"]),
    "two statements": (
        {"query": "SELECT 1 AS ts) AS a; DROP TABLE shop.events; SELECT * FROM (SELECT 1"},
        ["multiple commands", "source.query"],
    ),
    "a query that divides by zero": (
        {"query": "SELECT user_id, item_id, ts, 1 / 0 AS rating FROM shop.events"},
        ["division by zero", "source.query"],
    ),
    "a query that trips half way": (
        {
            "query": "SELECT n::text user_id, 1 / (199999 - n) item_id, date '2026-11-02' ts "
            "FROM generate_series(1, 200000) n"
        },
        ["division by zero", "source.query"],
    ),
    "a query that writes": (
        {"query": "WITH gone AS (DELETE FROM shop.events RETURNING *) SELECT * FROM gone"},
        ["data-modifying statement", "source.query"],
    ),
    "a query that writes by a function": (
        {"query": "SELECT user_id, item_id, ts, nextval('shop.n') AS score FROM shop.events AS e"},
        ["read-only transaction", "source.query"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_a_person_has_to_mend_is_one_sentence(
    sql: Callable[..., None], settings: Callable[..., Settings], case: str
) -> None:
    sql(TABLE, FEW, "ALTER TABLE shop.events ALTER rating TYPE int USING 2")
    sql("CREATE SEQUENCE shop.n")
    source, says = ERRORS[case]
    with pytest.raises(PipelineError) as error:
        ingest(settings(**source), NIGHT)
    message = str(error.value)
    assert all(part in message for part in says), message
    assert "\n" not in message
    assert ingest(settings(), NIGHT)["rows_read"] == 4  # the table is as it was


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda uri: uri.replace("test:", "reader:"), "permission denied for schema shop"),
        (lambda uri: uri.replace("test:", "test:not"), "password authentication failed"),
        (lambda uri: uri.replace("/postgres", "/nothing"), "does not exist"),
        (lambda uri: uri + "?sslmode=none", "invalid sslmode"),
    ],
)
def test_a_login_that_may_not_read_is_told_without_its_password(
    server: str,
    sql: Callable[..., None],
    settings: Callable[..., Settings],
    caplog: pytest.LogCaptureFixture,
    change: Callable[[str], str],
    says: str,
) -> None:
    password = urlsplit(server).password
    assert password
    sql(TABLE, "DROP ROLE IF EXISTS reader", f"CREATE ROLE reader LOGIN PASSWORD '{password}'")
    caplog.set_level(logging.DEBUG)
    with (
        looked_up_by(lambda _: change(server)),
        pytest.raises(SourceError, match=says) as error,
    ):
        ingest(settings(), NIGHT)
    told = "".join(traceback.format_exception(error.value)) + caplog.text
    assert password not in told
    assert "postgresql://" not in told


def test_a_server_that_speaks_another_language_is_understood(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server says is in its own language; what it means is in the SQLSTATE."""
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    half_way, _ = ERRORS["a query that trips half way"]
    with postgres_server() as server, looked_up_by(lambda _: server.uri):
        with adbc.connect(server.uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("ALTER SYSTEM SET lc_messages = 'C.utf8'")
            cursor.execute("SELECT pg_reload_conf()")
        with pytest.raises(SourceError, match=r"source\.query") as tripped:
            ingest(settings(**half_way), NIGHT)
        if "division by zero" in str(tripped.value):
            pytest.skip("this PostgreSQL has no messages in German")
        assert "Division durch Null" in str(tripped.value)
        with pytest.raises(SourceError, match=r"existiert nicht.*: correct source\.table"):
            ingest(settings(table="shop.nothing"), NIGHT)
        refused = server.uri.replace("test:", "test:not")
        with (
            looked_up_by(lambda _: refused),
            pytest.raises(NotReadyError, match=r"is not admitted .*Passwort-Auth.* are right"),
        ):
            ingest(settings(), NIGHT)


def test_a_server_that_goes_in_the_middle_leaves_no_event_and_ingest_waits_for_it(
    settings: Callable[..., Settings],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    many = (  # more than is on its way when the server goes
        "SELECT 'u' || n AS user_id, repeat('i', 100) AS item_id, "
        "timestamptz '2026-11-02' AS ts FROM generate_series(1, 200000) AS numbers (n)"
    )
    with postgres_server() as server, looked_up_by(lambda _: server.uri):
        copy = postgres._copy

        def cut_off(con: Any, reader: Any) -> None:
            if server.runs:
                server.stop()
            copy(con, reader)

        with monkeypatch.context() as patched:
            patched.setattr(postgres, "_copy", cut_off)
            with pytest.raises(NotReadyError) as gone:
                ingest(settings(query=many), NIGHT)
        with pytest.raises(NotReadyError) as down:
            ingest(settings(query=many), NIGHT)
        said = [str(error.value) for error in (gone, down)]
        assert "connection events_db does not answer (server closed the connection" in said[0]
        assert "connection events_db does not answer (Connection refused): see that" in said[1]
        told = "".join(said) + caplog.text
        assert str(urlsplit(server.uri).password) not in told and "\n" not in "".join(said)
        assert not Lake(settings().lake.root).path(tables.EVENTS).exists()
        server.start()
        assert ingest(settings(query=many), NIGHT)["rows_read"] == 200_000


def test_a_night_without_rows_says_so(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(TABLE)
    with pytest.raises(
        NightError, match=r"no events in table shop\.events of connection events_db"
    ):
        ingest(settings(), NIGHT)


def test_what_was_brought_over_is_gone_when_it_has_been_read(
    sql: Callable[..., None], settings: Callable[..., Settings]
) -> None:
    sql(TABLE, FEW)
    with duck.connect(settings()) as con:
        (part,) = source_of(settings()).parts(None, MIDNIGHT + DAY)
        with part.open(con):
            assert con.sql("FROM source_rows").count("*").fetchall() == [(4,)]
        assert con.execute("SELECT table_name FROM duckdb_tables()").fetchall() == []


def test_the_command_line_takes_a_night_from_the_table_to_checked_events(
    sql: Callable[..., None],
    settings: Callable[..., Settings],
    server: str,
) -> None:
    sql(TABLE, FEW)
    given = settings()
    options = {"source.kind": "postgres", "source.connection": "events_db"}
    options |= {"source.table": "shop.events", "quality.max_duplicate_share": "1"}
    changes = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    common = ["--night", str(NIGHT), "--lake", str(given.lake.root), *changes]
    for step in ("ingest", "check-events", "build-sequences"):
        done = subprocess.run(
            [sys.executable, "-m", "tasks", step, *common],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert str(urlsplit(server).password) not in done.stdout + done.stderr
    events = Lake(given.lake.root).scan(tables.EVENTS).collect()
    assert set(events["source"]) == {"events_db:shop.events"}
    histories = Lake(given.lake.root).scan(tables.SEQUENCES, first=NIGHT).collect()
    assert dict(histories.select("user_id", "n_events").iter_rows()) == {"ann": 2, "böb": 1}


def items_of(**catalogue: Any) -> list[tuple[Any, ...]]:
    given = {"kind": "postgres", "connection": "events_db", **catalogue}
    settings = load_settings(catalogue=given, duckdb={"threads": 1})
    with duck.connect(settings) as con:
        (part,) = Catalogue(settings).parts(NIGHT)
        with opened(con, part):
            return con.sql(
                "SELECT item_id, title, categories, attributes FROM source_rows ORDER BY ALL"
            ).fetchall()


def test_a_table_is_a_catalogue_with_arrays_and_long_numbers(sql: Callable[..., None]) -> None:
    sql(
        "CREATE TABLE shop.items (item_id bigint, title text, categories text[], price numeric)",
        "INSERT INTO shop.items VALUES (9007199254740993, 'A \"b\"', '{x,y z,x}', 1.50), "
        "(2, NULL, NULL, NULL)",
    )
    items = [
        ("2", None, [], '{"price":null}'),
        ("9007199254740993", 'A "b"', ["x", "y z"], '{"price":1.5}'),
    ]
    assert items_of(table="shop.items") == items
    assert items_of(query="SELECT * FROM shop.items -- all;") == items
    # As events, a query is one SELECT that changes nothing.
    with pytest.raises(SourceError, match=r"catalogue\.query"):
        items_of(query="DELETE FROM shop.items RETURNING *")
    with pytest.raises(SourceError, match=r"catalogue\.item_columns"):
        items_of(query="SELECT title FROM shop.items")
    with pytest.raises(SourceError, match=r"catalogue\.table"):
        items_of(table="shop.nothing")
    assert items_of(table="shop.items") == items
