"""Publishing to a real PostgreSQL: a night in one transaction, and every refusal a sentence."""

import datetime as dt
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import polars as pl
import pyarrow as pa
import pytest

from tasks.chores.forget import forget
from tasks.errors import NotReadyError, PublishError, SettingsError
from tasks.lake import Lake
from tasks.night.publish import publish
from tasks.registry.revisions import public
from tasks.settings import Settings, load_settings
from tasks.targets import contract, postgres, targets_of
from tests.servers import Postgres, postgres_server
from tests.tasks.labels import (
    HOSTILE,
    labels_of,
    write_companions,
    write_labels,
    write_recommendations,
)

NIGHT = dt.date(2026, 11, 20)
NEXT = NIGHT + dt.timedelta(days=1)
USERS = ["ann", "bob", "cleo", 'zoë "z"']

RECOMMENDED = "analytics.intent_labels_recommendations"
Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def query(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Query:
    """Run a statement on the server; the schema `analytics` is there, empty."""
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", server.uri)

    def run(statement: str) -> list[tuple[Any, ...]]:
        with adbc.connect(server.uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    run("DROP SCHEMA IF EXISTS analytics CASCADE")
    run("CREATE SCHEMA analytics")
    return run


@pytest.fixture
def settings(tmp_path: Path, query: Query) -> Settings:
    settings = load_settings(
        lake={"root": tmp_path / "lake"},
        publish={
            "postgres_connection": "warehouse",
            "postgres_table": "analytics.intent_labels",
        },
        duckdb={"threads": 1},
    )
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS))
    return settings


def changed(settings: Settings, **values: Any) -> Settings:
    publish_to = settings.publish.model_copy(update=values)
    return settings.model_copy(update={"publish": publish_to})


def in_table(query: Query, name: str = "intent_labels") -> list[tuple[Any, ...]]:
    return query(f"SELECT * FROM analytics.{name} ORDER BY dt, user_id")


def rows(*labels: pl.DataFrame) -> list[tuple[Any, ...]]:
    return pl.concat(labels).sort("dt", "user_id").rows()


def test_nights_come_with_table_view_indexes_and_the_version(
    settings: Settings, query: Query
) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS[:2]))
    summary = publish(settings, NEXT)
    assert summary["targets"][1:] == ["table analytics.intent_labels of connection warehouse"]
    assert in_table(query) == rows(labels_of(NIGHT, USERS), labels_of(NEXT, USERS[:2]))
    assert in_table(query, "intent_labels_latest") == rows(labels_of(NEXT, USERS[:2]))
    indexes = query(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'analytics' "
        "AND tablename IN ('intent_labels', 'intent_labels_log') ORDER BY 1"
    )
    assert [index.partition("USING ")[2] for (index,) in indexes] == [
        "btree (intent_id, dt)",
        "btree (dt, revision)",
        "btree (dt, user_id)",
    ]
    comments = query(
        "SELECT objsubid, description FROM pg_description "
        "WHERE objoid = 'analytics.intent_labels'::regclass ORDER BY 1"
    )
    assert comments[0] == (0, "One intent label a user a night, contract version 1.")
    assert [means for _, means in comments[1:]] == [column.means for column in contract.COLUMNS]


def test_profiles_names_and_evidence_come_with_the_labels_and_a_view_joins_them(
    settings: Settings, query: Query
) -> None:
    for night, name in ((NIGHT, "Old"), (NEXT, "Garden")):
        labels = labels_of(night, USERS)
        write_labels(settings, night, labels)
        write_companions(settings, night, labels, name)
        publish(settings, night)
        publish(settings, night)
    lake = Lake(settings.lake.root)
    for companion in contract.COMPANIONS:
        name = f"analytics.intent_labels{companion.suffix}"
        rows_of = f"SELECT dt, count(*) FROM {name} GROUP BY 1 ORDER BY 1"
        expected = lake.scan(companion.table).group_by("dt").len().sort("dt").collect().rows()
        assert query(rows_of) == expected, "each night is there once"
        comments = query(
            f"SELECT objsubid, description FROM pg_description WHERE objoid = '{name}'::regclass "
            "ORDER BY 1"
        )
        assert [means for _, means in comments] == [
            companion.table.row,
            *companion.table.meanings.values(),
        ]
    named = query(
        "SELECT user_id, intent_id, name, calibrated_confidence, clear "
        "FROM analytics.intent_labels_named ORDER BY user_id"
    )
    assert named == [
        ("ann", 0, "Garden 0", 0.75, True),
        ("bob", 1, "Garden 1", 0.75, True),
        ("cleo", None, None, None, None),
        ('zoë "z"', 1, "Garden 1", 0.75, True),
    ]
    nested = query(
        "SELECT items -> 0 ->> 'item_id', intents::jsonb -> 0 ->> 'probability' "
        "FROM analytics.intent_labels_evidence LIMIT 1"
    )
    assert nested == [(HOSTILE, "0.75")]
    assert query("SELECT DISTINCT value FROM analytics.intent_labels_features") == [(HOSTILE,)]


def test_labels_and_names_change_in_one_transaction(
    settings: Settings, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = labels_of(NIGHT, USERS), labels_of(NIGHT, USERS[:2])
    write_companions(settings, NIGHT, old, "Old")
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, new)
    write_companions(settings, NIGHT, new, "New")
    state = "SELECT count(*), min(name) FROM analytics.intent_labels_named"
    seen = set()
    log = postgres._Place.log

    def looked_at(*given: Any) -> None:
        seen.update(query(state))
        log(*given)
        seen.update(query(state))

    monkeypatch.setattr(postgres._Place, "log", looked_at)
    publish(settings, NIGHT)
    assert seen == {(4, "Old 0")}
    assert query(state) == [(2, "New 0")]


def test_publishing_again_replaces_the_night_and_no_other(settings: Settings, query: Query) -> None:
    write_labels(settings, NEXT, labels_of(NEXT, USERS))
    for night in (NIGHT, NEXT, NIGHT):
        publish(settings, night)
    assert in_table(query) == rows(labels_of(NIGHT, USERS), labels_of(NEXT, USERS))
    write_labels(settings, NIGHT, labels_of(NIGHT, ["dora"]))
    publish(settings, NIGHT)
    assert in_table(query, "intent_labels_latest") == rows(labels_of(NEXT, USERS))
    assert in_table(query) == rows(labels_of(NIGHT, ["dora"]), labels_of(NEXT, USERS))


def test_a_table_without_a_schema_is_where_the_connection_s_user_makes_tables(
    settings: Settings, query: Query
) -> None:
    publish(changed(settings, postgres_table="labels_by_hand"), NIGHT)
    assert query("SELECT count(*) FROM public.labels_by_hand_latest") == [(4,)]
    query("DROP TABLE public.labels_by_hand CASCADE")


def test_a_reader_never_sees_half_a_night_and_two_runs_do_not_mix(
    settings: Settings, query: Query, tmp_path: Path
) -> None:
    users = [f"u{number:05}" for number in range(4000)]
    both = []
    for n in (4000, 1000):
        other = settings.model_copy(
            update={"lake": settings.lake.model_copy(update={"root": tmp_path / f"lake-{n}"})}
        )
        write_labels(other, NIGHT, labels_of(NIGHT, users[:n]))
        both.append(other)
    publish(both[0], NIGHT)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_publish_often, args=(other,)) for other in both]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen |= set(query("SELECT count(*) FROM analytics.intent_labels_latest"))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen == {(4000,), (1000,)}


def _publish_often(settings: Settings) -> None:
    for _ in range(6):
        publish(settings, NIGHT)


def test_a_second_run_waits_for_the_first(
    settings: Settings, query: Query, server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    publish(settings, NIGHT)
    spawn = multiprocessing.get_context("spawn")
    other = spawn.Process(target=publish, args=(settings, NIGHT))
    key = "hashtextextended('labels in analytics.intent_labels', 0)"
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with adbc.connect(server.uri) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_xact_lock({key})::text")
        cursor.fetchall()
        other.start()
        until = time.monotonic() + 60
        while query(waiting) == [(0,)] and time.monotonic() < until:
            time.sleep(0.1)
        assert query(waiting) == [(1,)]
    other.join(60)
    assert other.exitcode == 0
    assert in_table(query) == rows(labels_of(NIGHT, USERS))


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ("TABLE analytics.intent_labels (dt date, user_id bigint, mine text)", "user_id is bigint"),
        ("TABLE analytics.intent_labels (dt date, user_id bigint, mine text)", "mine is text inst"),
        ("TABLE analytics.intent_labels (dt date)", "intent_id is missing instead of integer"),
        ("VIEW analytics.intent_labels AS SELECT 1 AS a", "a is integer instead of none"),
        ("SEQUENCE analytics.intent_labels", "is not as publish makes it"),
        ("TABLE analytics.intent_labels_latest (dt date)", "whose view that would be"),
        ("TABLE analytics.intent_labels_named (dt date)", "beside which that would be"),
        ("TABLE analytics.intent_labels_names (dt date)", "beside which that would be"),
    ],
)
def test_what_is_there_and_is_not_ours_stays(
    settings: Settings, query: Query, there: str, says: str, tmp_path: Path
) -> None:
    query(f"CREATE {there}")
    listed = "SELECT relname::text FROM pg_class WHERE relnamespace = 'analytics'::regnamespace"
    before = query(listed)
    with pytest.raises(PublishError, match=says):
        publish(changed(settings, parquet=str(tmp_path / "published")), NIGHT)
    assert query(listed) == before
    assert not (tmp_path / "published").exists(), "no other target was written either"


def test_labels_of_another_contract_are_not_mixed_in(settings: Settings, query: Query) -> None:
    publish(settings, NIGHT)
    query("COMMENT ON TABLE analytics.intent_labels IS 'contract version 2'")
    with pytest.raises(PublishError, match="has labels of contract version 2, and these are of"):
        publish(settings, NIGHT)


def test_a_table_that_others_made_with_these_columns_is_taken(
    settings: Settings, query: Query
) -> None:
    columns = ", ".join(f"{column.name} {column.postgres}" for column in contract.COLUMNS[::-1])
    query(f"CREATE TABLE analytics.intent_labels ({columns})")
    publish(settings, NIGHT)
    latest = query(f"SELECT {', '.join(contract.NAMES)} FROM analytics.intent_labels_latest")
    assert sorted(latest) == rows(labels_of(NIGHT, USERS))


@pytest.mark.parametrize(
    "table", ["labels; DROP TABLE labels", 'a"b', "a.b.c", "", "ärger", "x" * 55, "labels --"]
)
def test_a_table_name_that_is_sql_is_refused(table: str) -> None:
    with pytest.raises(SettingsError, match=r"publish\.postgres_table .* write the name of a tabl"):
        load_settings(publish={"postgres_table": table})


def test_a_missing_connection_is_named_and_nothing_is_done(
    settings: Settings, tmp_path: Path
) -> None:
    given = changed(settings, postgres_connection="nowhere", parquet=str(tmp_path / "published"))
    for run in (lambda: publish(given, NIGHT), lambda: forget(given, ["ann"])):
        with pytest.raises(SettingsError, match="there is no connection nowhere"):
            run()
    assert not (tmp_path / "published").exists()
    publish(settings, NIGHT)


def test_a_missing_schema_is_named(settings: Settings) -> None:
    with pytest.raises(PublishError, match=r"has no schema to be in: .* CREATE SCHEMA marts"):
        publish(changed(settings, postgres_table="marts.labels"), NIGHT)


def test_a_refused_login_and_a_missing_right_are_sentences_without_the_password(
    settings: Settings, query: Query, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = server.uri.split(":")[2].partition("@")[0]
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", server.uri.replace(password, "secret-and-wrong"))
    with pytest.raises(PublishError, match="connection warehouse is refused") as refused:
        publish(settings, NIGHT)
    assert "secret" not in str(refused.value)
    query("DROP ROLE IF EXISTS reader")
    query("CREATE ROLE reader LOGIN PASSWORD 'reads'")
    reader = server.uri.replace(f"test:{password}", "reader:reads")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", reader)
    with pytest.raises(PublishError, match="permission denied for schema analytics") as refused:
        publish(settings, NIGHT)
    assert "reads" not in str(refused.value)
    assert query("SELECT to_regclass('analytics.intent_labels')::text") == [(None,)]


def test_an_id_that_postgresql_cannot_hold_leaves_the_night_before(
    settings: Settings, query: Query
) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, labels_of(NIGHT, ["dora", "nul\0"]))
    with pytest.raises(PublishError, match=r"invalid byte sequence.*nothing was changed"):
        publish(settings, NIGHT)
    assert in_table(query) == rows(labels_of(NIGHT, USERS))


def test_a_server_that_goes_in_the_middle_leaves_the_night_before_and_publish_waits_for_it(
    settings: Settings, query: Query, server: Postgres
) -> None:
    publish(settings, NIGHT)

    def batches() -> Iterator[pa.RecordBatch]:
        """Give new labels once the old ones are deleted; the server goes before they are there."""
        server.stop()
        yield from labels_of(NIGHT, ["dora"]).to_arrow().to_batches()

    with duckdb.connect() as con:
        schema = labels_of(NIGHT, ["dora"]).to_arrow().schema
        con.register("intent_labels", pa.RecordBatchReader.from_batches(schema, batches()))
        (target,) = targets_of(settings)
        with pytest.raises(NotReadyError) as gone:
            target.publish(con, NIGHT, public(Lake(settings.lake.root), NIGHT))
    with pytest.raises(NotReadyError) as down:
        publish(settings, NIGHT)
    said = [str(error.value) for error in (gone, down)]
    assert "connection warehouse does not answer (server closed the connection" in said[0]
    assert "connection warehouse does not answer (Connection refused): see that" in said[1]
    assert not any("\n" in sentence or "postgresql://" in sentence for sentence in said)
    server.start()
    assert in_table(query) == rows(labels_of(NIGHT, USERS))
    write_labels(settings, NIGHT, labels_of(NIGHT, ["dora"]))
    publish(settings, NIGHT)
    assert in_table(query) == rows(labels_of(NIGHT, ["dora"]))


def test_recommendations_have_a_table_once_a_night_has_some(
    settings: Settings, query: Query
) -> None:
    labels, exists = labels_of(NIGHT, USERS), f"SELECT to_regclass('{RECOMMENDED}') IS NOT NULL"
    publish(settings, NIGHT)
    assert query(exists) == [(False,)]
    write_recommendations(settings, NIGHT, labels)
    publish(settings, NIGHT)
    rows_of = f"SELECT user_id, items->1->>'item_id' FROM {RECOMMENDED} ORDER BY user_id"
    assert query(rows_of) == [(user, "i1") for user in USERS]
    [(first,)] = query(f"SELECT items->0->>'item_id' FROM {RECOMMENDED} LIMIT 1")
    assert first == HOSTILE
    write_recommendations(settings, NIGHT, labels.clear())
    assert publish(settings, NIGHT)["revision"] == 3
    assert query(rows_of) == [] and query(exists) == [(True,)]


@pytest.mark.slow
def test_a_table_of_others_by_that_name_is_in_the_way_only_where_some_are_asked_for(
    settings: Settings, query: Query
) -> None:
    query(f"CREATE TABLE {RECOMMENDED} (film text)")
    query(f"INSERT INTO {RECOMMENDED} VALUES ('Alien')")
    publish(settings, NIGHT)
    assert forget(settings, ["bob"])["targets"]
    asking = settings.model_copy(
        update={"recommend": settings.recommend.model_copy(update={"top_k": 2})}
    )
    with pytest.raises(PublishError, match=r"_recommendations .* is not as publish makes it"):
        publish(asking, NIGHT)
    write_recommendations(settings, NIGHT, labels_of(NIGHT, USERS))
    with pytest.raises(PublishError, match=r"_recommendations .* is not as publish makes it"):
        publish(settings, NIGHT)
    assert query(f"SELECT * FROM {RECOMMENDED}") == [("Alien",)]


@pytest.mark.slow
def test_a_name_that_is_too_long_for_recommendations_is_refused_where_some_are_asked_for(
    settings: Settings, query: Query
) -> None:
    long = changed(settings, postgres_table=f"analytics.{'x' * 48}")
    publish(long, NIGHT)
    asking = long.model_copy(update={"recommend": long.recommend.model_copy(update={"top_k": 2})})
    with pytest.raises(PublishError, match=r"64 letters, and PostgreSQL takes 63"):
        publish(asking, NIGHT)
    publish(changed(asking, postgres_table=f"analytics.{'x' * 47}"), NIGHT)


def test_a_forgotten_person_goes_from_the_table(settings: Settings, query: Query) -> None:
    target = "table analytics.intent_labels of connection warehouse"
    nothing = {"rows_removed": 0, "nights_rewritten": 0, "left": 0}
    assert forget(settings, ["nobody"])["targets"] == {target: nothing}
    for night in (NIGHT, NEXT):
        write_labels(settings, night, labels_of(night, USERS))
        write_companions(settings, night, labels_of(night, USERS), "Garden")
        publish(settings, night)
    report = forget(settings, ["ann", USERS[3]])
    # A night: labels, evidence and recommendations of both, who are also close to their intents.
    assert report["targets"] == {target: {"rows_removed": 16, "nights_rewritten": 2, "left": 0}}
    for suffix, left in (
        ("", {"bob", "cleo"}),
        ("_evidence", {"bob", "cleo"}),
        ("_recommendations", {"bob", "cleo"}),
        ("_users", {"bob"}),
    ):
        users = query(f"SELECT user_id FROM analytics.intent_labels{suffix}")
        assert {user for (user,) in users} == left
    assert forget(settings, ["ann"])["targets"] == {target: nothing}
