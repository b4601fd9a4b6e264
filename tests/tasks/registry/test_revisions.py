"""Each published state of a night is told once: when, by which run, why, and what changed."""

import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.chores.forget import forget
from tasks.chores.upkeep import upkeep
from tasks.errors import PublishError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect
from tasks.night.publish import publish
from tasks.registry import inputs, revisions
from tasks.registry.revisions import PUBLIC, nights_of_run
from tasks.settings import REPO, Settings, load_settings
from tasks.targets import contract
from tasks.targets.parquet import ParquetFolder
from tests.servers import Postgres, postgres_server
from tests.tasks.labels import labels_of, write_labels

NIGHT = dt.date(2026, 11, 20)
NEXT = NIGHT + dt.timedelta(days=1)
USERS = ["ann", "bob", "cleo", "dora"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(
        lake={"root": tmp_path / "lake"},
        publish={"parquet": str(tmp_path / "published")},
        duckdb={"threads": 1},
        retention={"min_age_hours": 0},
    )
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS))
    return settings


def of(settings: Settings, night: dt.date = NIGHT) -> list[dict[str, Any]]:
    rows = Lake(settings.lake.root).scan(tables.LABEL_REVISIONS, night, night).collect()
    return rows.sort("revision").to_dicts()


def counts(settings: Settings) -> list[tuple[int | None, ...]]:
    names = ("revision", "labels", "changed", "added", "removed")
    return [tuple(row[name] for name in names) for row in of(settings)]


def in_parquet(settings: Settings, night: dt.date = NIGHT) -> list[dict[str, Any]]:
    [file] = (Path(settings.publish.parquet) / f"dt={night}").iterdir()
    told: list[dict[str, Any]] = json.loads(pq.read_schema(file).metadata[b"revisions"])
    return told


def as_told(settings: Settings, night: dt.date = NIGHT) -> list[dict[str, Any]]:
    """Return the lake's revisions as JSON has them."""
    rows = [{name: row[name] for name in PUBLIC} for row in of(settings, night)]
    told: list[dict[str, Any]] = json.loads(json.dumps(rows, default=str))
    return told


def with_intents(intents: dict[str, int]) -> pl.DataFrame:
    labels = labels_of(NIGHT, list(intents))
    return labels.with_columns(
        intent_id=pl.Series(list(intents.values()), dtype=pl.Int32),
        confidence=pl.lit(0.5, pl.Float32),
    )


def test_the_first_time_is_the_first_revision(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dt.datetime.now(dt.UTC)
    summary = publish(settings, NIGHT)
    [row] = of(settings)
    assert counts(settings) == [(1, 4, 0, 4, 0)]
    told = (row["why"], row["because"], row["run"])
    assert told == ("first run", "its labels were not published before", "command line")
    assert before <= row["published_at"] <= dt.datetime.now(dt.UTC)
    assert row["model_version"] == "20261101-abc"
    assert (summary["revision"], summary["why"]) == (1, "first run")
    write_labels(settings, NEXT, labels_of(NEXT, USERS))
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled__2026-11-21")
    publish(settings, NEXT)
    assert of(settings, NEXT)[0]["run"] == "scheduled__2026-11-21"


@pytest.mark.slow
def test_a_run_knows_the_nights_that_it_has_changed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(settings.lake.root)
    assert nights_of_run(lake) == []
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS))
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__2026-11-23")
    publish(settings, NIGHT)
    assert nights_of_run(lake) == [], "the same labels again change nothing"
    publish(settings, NEXT)
    assert nights_of_run(lake) == [NEXT]
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[1:]))
    publish(settings, NIGHT)
    assert nights_of_run(lake) == [NIGHT, NEXT]


@pytest.mark.slow
def test_the_same_labels_again_are_no_new_revision(settings: Settings) -> None:
    first = publish(settings, NIGHT)
    [row] = of(settings)
    assert publish(settings, NIGHT) == first
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[::-1])[::-1].sort("user_id"))
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS))
    assert publish(settings, NIGHT) == first
    [again] = of(settings)
    assert again["files"] != row["files"] and again | {"files": row["files"]} == row
    # The files that it was published from first are gone; what comes next is told all the same.
    upkeep(settings)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:3]))
    publish(settings, NIGHT)
    assert counts(settings)[1] == (2, 3, 0, 0, 1)


@pytest.mark.slow
def test_what_changed_is_counted_against_what_was_published_last(settings: Settings) -> None:
    write_labels(settings, NIGHT, with_intents({"ann": 0, "bob": 1, "cleo": 2}))
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, with_intents({"ann": 9, "bob": 9, "cleo": 9}))  # never published
    write_labels(settings, NIGHT, with_intents({"ann": 0, "bob": 2, "dora": 1}))
    publish(settings, NIGHT)
    assert counts(settings) == [(1, 3, 0, 3, 0), (2, 3, 1, 1, 1)]
    # Another confidence is another state that readers can see, and no label changed.
    surer = with_intents({"ann": 0, "bob": 2, "dora": 1}).with_columns(
        confidence=pl.lit(0.9, pl.Float32)
    )
    write_labels(settings, NIGHT, surer)
    assert publish(settings, NIGHT)["labels_changed"] == 0
    assert counts(settings)[2] == (3, 3, 0, 0, 0)


def test_labels_that_are_gone_leave_what_changed_unknown(settings: Settings) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:2]))
    upkeep(settings)
    publish(settings, NIGHT)
    assert counts(settings)[1] == (2, 2, None, None, None)


def test_a_run_killed_between_lake_and_target_is_completed_with_the_same_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:2]))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ParquetFolder, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(settings, NIGHT)
    assert len(of(settings)) == 2 and len(in_parquet(settings)) == 1
    rows = of(settings)
    publish(settings, NIGHT)
    assert of(settings) == rows
    assert in_parquet(settings) == as_told(settings)


def test_a_night_that_breaks_the_contract_has_no_revision(settings: Settings) -> None:
    broken = labels_of(NIGHT, USERS).with_columns(n_events=pl.lit(None, pl.Int32))
    write_labels(settings, NIGHT, broken)
    with pytest.raises(PublishError):
        publish(settings, NIGHT)
    assert of(settings) == []


def stood_on(settings: Settings, **given: str) -> None:
    """Record what the labels of the night were made from; a name has _ for each space."""
    rows = [
        inputs.Input(name.replace("_", " "), NIGHT, None, digest) for name, digest in given.items()
    ]
    row = {"dt": NIGHT, "step": "label", "summary": "{}", "inputs": inputs.as_rows(rows)}
    Lake(settings.lake.root).replace(
        tables.STEPS,
        pa.Table.from_pylist([row], schema=tables.STEPS.schema),
        nights=[NIGHT],
        within={"step": "label"},
    )


def ingested(settings: Settings, night: dt.date, changed_nights: dict[str, int]) -> None:
    summary = json.dumps({"changed_nights": changed_nights})
    Lake(settings.lake.root).replace(
        tables.STEPS,
        pa.Table.from_pylist(
            [{"dt": night, "step": "ingest", "summary": summary}], schema=tables.STEPS.schema
        ),
        nights=[night],
        within={"step": "ingest"},
    )


def models(settings: Settings, **fingerprints: str) -> None:
    rows = [
        {"dt": NIGHT, "model_version": version, "settings_fingerprint": fingerprint}
        for version, fingerprint in fingerprints.items()
    ]
    Lake(settings.lake.root).replace(
        tables.MODELS, pa.Table.from_pylist(rows, schema=tables.MODELS.schema), nights=[NIGHT]
    )


BEFORE = {"events": "e", "sequences": "s", "model_before": "m", "labels_with": "v1"}
BEFORE |= {"labels_before": "l", "forgotten": "f"}
WHY: dict[str, tuple[dict[str, str], str]] = {
    "rerun": ({}, "it was made from the same"),
    "rerun of other histories": ({"sequences": "s2"}, "others than they were: its histories"),
    "relabel": ({"relabelled_with": "v9"}, "a person has named model v9 for this night"),
    "late events": ({"events": "e2"}, f"events of its days came late, with night {NEXT}"),
    "other events": ({"events": "e2"}, "are others than they were"),
    "people forgotten": ({"events": "e2", "forgotten": "f2"}, "events of forgotten people"),
    "rollback": ({"labels_with": "v2"}, "a person has chosen model v2"),
    "other settings": ({"labels_with": "v2"}, "trained on other settings, or by another version"),
    "earlier nights": ({"labels_before": "l2"}, "the model or the labels that it goes on from"),
    "backfill": ({}, f"night {NEXT} was labelled before it"),
}


@pytest.mark.parametrize("why", WHY)
def test_why_a_revision_came_is_told_from_what_the_labels_were_made_from(
    settings: Settings, why: str
) -> None:
    changed, because = WHY[why]
    stood_on(settings, **BEFORE)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS).with_columns(model_version=pl.lit("v1")))
    models(settings, v1="a", v2="b" if why == "other settings" else "a")
    publish(settings, NIGHT)
    if why == "backfill":
        write_labels(settings, NEXT, labels_of(NEXT, USERS))
    if why == "late events":
        ingested(settings, NEXT, {NIGHT.isoformat(): 3})
    if why == "rollback":
        row = {"dt": NIGHT, "model_version": "v2", "next_intent_id": 1}
        rows = pa.Table.from_pylist([row], schema=tables.CHOICES.schema)
        Lake(settings.lake.root).replace(tables.CHOICES, rows, nights=[NIGHT])
    stood_on(settings, **BEFORE | changed)
    version = changed.get("labels_with", "v1")
    labels = labels_of(NIGHT, USERS[:3]).with_columns(model_version=pl.lit(version))
    write_labels(settings, NIGHT, labels)
    publish(settings, NIGHT)
    newest = of(settings)[-1]
    assert newest["why"] == why.removesuffix(" of other histories")
    assert because in newest["because"]


def test_a_backfill_is_one_also_where_the_night_had_no_revision(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_labels(settings, NEXT, labels_of(NEXT, USERS))
    publish(settings, NIGHT)
    said = [(row["why"], row["because"]) for row in of(settings)]
    assert said == [("backfill", f"night {NEXT} was labelled before it")]
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "backfill__2026-11-21")
    publish(settings, NEXT)
    said = [(row["why"], row["because"]) for row in of(settings, NEXT)]
    assert said == [("backfill", "run backfill__2026-11-21 made it")]


@pytest.mark.slow
def test_a_rerun_says_what_is_known_of_it(settings: Settings) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:3]))
    publish(settings, NIGHT)
    assert of(settings)[-1]["because"] == "it is not recorded what its labels were made from"
    stood_on(settings, **BEFORE | {"relabelled_with": "v9"})
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:2]))
    publish(settings, NIGHT)
    stood_on(settings, **BEFORE)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:1]))
    publish(settings, NIGHT)
    said = [(row["why"], row["because"]) for row in of(settings)[-2:]]
    assert said == [
        ("relabel", "a person has named model v9 for this night"),
        ("rerun", "it has its own run's labels again, and not those of model v9"),
    ]


@pytest.mark.slow
# Forgotten people
def test_forgetting_is_a_revision_of_each_night_that_loses_labels(settings: Settings) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS[1:]))
    publish(settings, NEXT)
    forget(settings, ["ann"])
    assert counts(settings) == [(1, 4, 0, 4, 0), (2, 3, 0, 0, 1)]
    assert [row["why"] for row in of(settings, NEXT)] == ["first run"]
    assert in_parquet(settings) == as_told(settings)
    forget(settings, ["ann"])
    publish(settings, NIGHT)
    assert len(of(settings)) == 2, "neither is anything new"
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[1:3]))
    publish(settings, NIGHT)
    assert counts(settings)[2][-1] == 1, "what is left of the night is there to compare with"
    every = json.dumps(as_told(settings) + as_told(settings, NEXT))
    assert "ann" not in re.findall(r"\w+", every)


@pytest.mark.parametrize("at", ["before the labels go", "before the files are noted"])
def test_a_forget_that_was_killed_is_completed_with_one_revision(
    settings: Settings, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, NIGHT)
    replace = Lake.replace

    def killed(lake: Lake, table: tables.Table, *given: Any, **named: Any) -> None:
        if table is tables.INTENT_LABELS:
            if at.endswith("noted"):
                replace(lake, table, *given, **named)
            raise KeyboardInterrupt
        replace(lake, table, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(settings, ["ann"])
    forget(settings, ["ann"])
    assert counts(settings) == [(1, 4, 0, 4, 0), (2, 3, 0, 0, 1)]
    assert of(settings)[-1]["files"], "the next revision can be compared"
    assert in_parquet(settings) == as_told(settings)


@pytest.mark.slow
def test_labels_that_were_not_published_yet_get_their_revision_when_they_are(
    settings: Settings,
) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, labels_of(NIGHT, [*USERS, "eve"]))
    forget(settings, ["ann"])
    assert len(of(settings)) == 1
    publish(settings, NIGHT)
    assert len(of(settings)) == 2


# Targets
def test_a_reader_of_the_parquet_folder_finds_labels_only(settings: Settings) -> None:
    publish(settings, NIGHT)
    folder = settings.publish.parquet
    assert pl.read_parquet(folder).height == 4
    assert pq.read_table(folder).num_rows == 4
    with duckdb.connect() as con:
        assert len(con.read_parquet(f"{folder}/**/*.parquet")) == 4


def test_the_documented_query_of_the_parquet_folder_gives_the_revisions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS[:2]))
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS))
    publish(settings, NEXT)
    page = (REPO / "docs" / "howto" / "revisions.md").read_text("utf-8")
    [query] = re.findall(r"```sql\n(SELECT[^`]*parquet_kv_metadata.*?)```", page, re.DOTALL)
    monkeypatch.chdir(Path(settings.publish.parquet).parent)
    with connect(settings) as con:
        found = con.sql(query).order("dt, revision").to_arrow_table()
    expected = revisions.public(Lake(settings.lake.root))
    assert (
        found.select(["dt", "revision", "why", "changed"]).to_pylist()
        == expected.select(["dt", "revision", "why", "changed"]).to_pylist()
    )


def test_a_folder_published_before_there_were_revisions_is_taken_over(settings: Settings) -> None:
    publish(settings, NIGHT)
    [file] = Path(settings.publish.parquet).rglob("*.parquet")
    labels = pq.read_table(file, partitioning=None)
    old = file.with_name("intent_labels-0123456789abcdef.parquet")
    pq.write_table(labels.replace_schema_metadata({"contract_version": "1"}), old)
    file.unlink()
    shutil.rmtree(settings.lake.root / "label_revisions")
    publish(settings, NIGHT)
    assert in_parquet(settings) == as_told(settings) and len(as_told(settings)) == 1
    assert pl.read_parquet(settings.publish.parquet).height == 4


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


def query(server: Postgres, statement: str) -> list[tuple[Any, ...]]:
    with adbc.connect(server.uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def in_postgres(settings: Settings, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", server.uri)
    query(server, "DROP SCHEMA IF EXISTS analytics CASCADE")
    query(server, "CREATE SCHEMA analytics")
    publish_to = settings.publish.model_copy(
        update={"postgres_connection": "warehouse", "postgres_table": "analytics.intent_labels"}
    )
    return settings.model_copy(update={"publish": publish_to})


def test_postgresql_has_the_revisions_with_the_labels(
    in_postgres: Settings, server: Postgres
) -> None:
    publish(in_postgres, NIGHT)
    write_labels(in_postgres, NIGHT, labels_of(NIGHT, USERS[:3]))
    publish(in_postgres, NIGHT)
    publish(in_postgres, NIGHT)
    found = "SELECT * FROM analytics.intent_labels_log ORDER BY dt, revision"
    lake = Lake(in_postgres.lake.root)
    assert query(server, found) == [
        tuple(row.values()) for row in revisions.public(lake).to_pylist()
    ]
    forget(in_postgres, ["ann"])
    assert query(server, found) == [
        tuple(row.values()) for row in revisions.public(lake).to_pylist()
    ]
    assert query(server, "SELECT count(*) FROM analytics.intent_labels") == [(2,)]
    [(about,)] = query(server, "SELECT obj_description('analytics.intent_labels_log'::regclass)")
    assert about == "One published revision of a night's labels: when, by which run, and why."


def test_postgresql_has_labels_and_revisions_of_before_when_it_fails_in_the_middle(
    in_postgres: Settings, server: Postgres
) -> None:
    publish(in_postgres, NIGHT)
    query(server, "ALTER TABLE analytics.intent_labels_log ADD CHECK (revision < 2)")
    write_labels(in_postgres, NIGHT, labels_of(NIGHT, USERS[:1]))
    with pytest.raises(PublishError, match="nothing was changed"):
        publish(in_postgres, NIGHT)
    assert query(server, "SELECT count(*) FROM analytics.intent_labels") == [(4,)]
    assert query(server, "SELECT max(revision) FROM analytics.intent_labels_log") == [(1,)]


def test_a_postgresql_table_of_before_there_were_revisions_is_taken_over(
    in_postgres: Settings, server: Postgres
) -> None:
    publish(in_postgres, NIGHT)
    query(server, "DROP TABLE analytics.intent_labels_log")
    write_labels(in_postgres, NEXT, labels_of(NEXT, USERS))
    publish(in_postgres, NEXT)
    assert query(server, "SELECT count(*) FROM analytics.intent_labels") == [(8,)]
    assert query(server, "SELECT dt, why FROM analytics.intent_labels_log") == [(NEXT, "first run")]


def test_a_table_of_others_where_the_revisions_would_be_is_named(
    in_postgres: Settings, server: Postgres
) -> None:
    query(server, "CREATE TABLE analytics.intent_labels_log (mine text)")
    with pytest.raises(PublishError, match="whose revisions that would be"):
        publish(in_postgres, NIGHT)


def test_the_columns_of_targets_are_those_of_the_lake_that_are_for_readers() -> None:
    promised = [(column.name, column.type) for column in contract.REVISIONS]
    schema = tables.LABEL_REVISIONS.schema
    assert promised == [(name, schema.field(name).type) for name in PUBLIC]
