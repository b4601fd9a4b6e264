"""Steps on a real Spark Connect server, with two executors, beside the same steps on DuckDB.

Contract 10: either engine leaves the same rows. All tests that need the server are in this file:
one server serves them.
"""

import datetime as dt
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tasks.errors import ModelError, SettingsError
from tasks.lake import Lake, tables
from tasks.night.label import label
from tasks.settings import Settings, load_settings
from tasks.spark import label as label_on_spark
from tasks.spark import session as sessions
from tasks.spark.frames import frame, statement
from tasks.spark.label import Labelling, write_labels
from tasks.steps import run_step
from tests.servers import Spark, spark_connect
from tests.sql.test_statements import plain
from tests.tasks.nights import NIGHT, small_settings, table
from tests.tasks.spark import statements
from tests.test_night_properties import LAST_EVENTS, LOGS, NIGHTS, SESSION, Log, deliver, night

pytestmark = pytest.mark.slow
Batches = Iterator[pa.RecordBatch]
NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
BUILT = (tables.ITEMS, tables.SEQUENCES, tables.LEFT_OUT_EVENTS)


@pytest.fixture(scope="module")
def spark() -> Iterator[Spark]:
    with spark_connect() as server:
        yield server


def on_spark(settings: Settings, spark: Spark) -> Settings:
    engine = settings.engine.model_copy(update={"kind": "spark", "url": spark.url})
    return settings.model_copy(update={"engine": engine})


def add_next_night(settings: Settings) -> None:
    """Give the night after NIGHT histories: some users have an event more, one has left."""
    rows = table(settings, tables.SEQUENCES, NIGHT).sort("user_id")
    active = pl.int_range(pl.len()) % 3 == 0
    rows = rows.with_columns(
        dt=pl.lit(NEXT_NIGHT),
        items=pl.when(active).then(pl.col("items").list.reverse()).otherwise("items"),
        last_ts=pl.when(active).then(pl.col("last_ts") + dt.timedelta(days=1)).otherwise("last_ts"),
    )[1:]
    Lake(settings.lake.root).replace(tables.SEQUENCES, rows, nights=[NEXT_NIGHT])


def compare_labels(on_one: Settings, spark: Spark) -> None:
    """Label the night after NIGHT on both engines, and see that all tables are the same."""
    add_next_night(on_one)
    summary = label(on_one, NEXT_NIGHT)
    written = (tables.INTENT_LABELS, tables.LABEL_EVIDENCE, tables.INTENT_PROFILES)
    expected = [table(on_one, which, NEXT_NIGHT) for which in written]
    assert label(on_spark(on_one, spark), NEXT_NIGHT) == summary
    for which, rows in zip(written, expected, strict=True):
        key = "user_id" if "user_id" in rows.columns else "intent_id"
        found = table(on_one, which, NEXT_NIGHT)
        assert_frame_equal(found.sort(key), rows.sort(key), rel_tol=0, abs_tol=1e-6)


def test_labels_and_evidence_equal_those_of_duckdb(night_done: Settings, spark: Spark) -> None:
    compare_labels(night_done, spark)
    files = Lake.of(night_done).files(tables.INTENT_LABELS, NEXT_NIGHT)
    assert all(pl.read_parquet(file)["user_id"].is_sorted() for file in files)


def test_an_executor_that_is_killed_while_it_labels_costs_no_row(
    night_done: Settings, spark: Spark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"

    def killing(*given: Any) -> Callable[[Batches], Batches]:
        work = Labelling(*given)

        def labelled(batches: Batches) -> Batches:
            for labels in work(batches):
                yield labels
                if not killed.exists():  # the part is not whole yet
                    killed.touch()
                    for process in psutil.Process().parents():  # the nearest one is Python's
                        if process.name() == "java":
                            process.kill()
                            break

        return labelled

    monkeypatch.setattr(label_on_spark, "Labelling", killing)
    before = {process.pid for process in spark.executors()}
    compare_labels(night_done, spark)
    assert killed.exists()
    assert before - {process.pid for process in spark.executors()}


def test_an_error_of_an_executor_is_the_sentence_that_it_is_here(
    night_done: Settings, spark: Spark
) -> None:
    before = table(night_done, tables.INTENT_LABELS, NIGHT)
    with pytest.raises(ModelError, match=r"^model 20260101-none in .*the folder is missing"):
        write_labels(on_spark(night_done, spark), NIGHT, "20260101-none", None)
    assert table(night_done, tables.INTENT_LABELS, NIGHT).equals(before)


def test_executors_without_what_this_program_has_are_refused(
    tmp_path: Path, spark: Spark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_versions", lambda names: dict.fromkeys(names, "1.0 of here"))
    with (
        sessions.session(on_spark(small_settings(tmp_path), spark)) as connected,
        pytest.raises(SettingsError, match=r"executors cannot run this program.*torch is 2.* th"),
    ):
        sessions.equip(connected, ["torch"])


def test_a_server_of_another_version_is_refused(
    tmp_path: Path, spark: Spark, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, _, errors = sessions._client()
    monkeypatch.setattr(sessions, "_client", lambda: (builder, "3.5.1", errors))
    with (
        pytest.raises(SettingsError, match=r"is of version 4.*and pyspark-client here of 3\.5\.1"),
        sessions.session(on_spark(small_settings(tmp_path), spark)),
    ):
        pass


def test_files_are_read_whatever_the_name_of_their_folder(tmp_path: Path, spark: Spark) -> None:
    settings = small_settings(tmp_path / "my lake's {folder} ü*?")
    lake = Lake.of(settings)
    rows = {"dt": NIGHT, "user_id": ["ann", "ben"], "item_id": "x", "event_type": "e"}
    rows |= {"ts": dt.datetime.combine(NIGHT, dt.time(), dt.UTC), "weight": 1.5}
    frame_of_rows = pl.DataFrame(rows | {"source": "a", "row_number": [1, 2], "ingested": None})
    lake.replace(tables.EVENTS, frame_of_rows, nights=[NIGHT])
    with sessions.session(on_spark(settings, spark)) as connected:
        found = frame(connected, lake, tables.EVENTS, NIGHT, NIGHT).toArrow()
        assert frame(connected, lake, tables.EVENTS, NEXT_NIGHT).isEmpty()
    # What is older than the column has what `Table.before` says.
    expected = lake.scan(tables.EVENTS).collect().with_columns(ingested=pl.lit(NIGHT))
    assert_frame_equal(pl.DataFrame(found).sort("user_id"), expected.sort("user_id"))


def test_statements_give_the_rows_of_their_cases(tmp_path: Path, spark: Spark) -> None:
    with sessions.session(on_spark(small_settings(tmp_path), spark)) as connected:
        for number, (name, fixture, case) in enumerate(statements.cases()):
            inputs, expected = statements.tables_of(fixture, case)
            for view, rows in inputs.items():
                file = tmp_path / f"{number}-{view}.parquet"
                pq.write_table(rows, file)  # from Arrow, no frame without rows can be made
                connected.read.parquet(str(file)).createOrReplaceTempView(view)
            found = statement(connected, name, **case.get("parameters", {})).toArrow()
            where = f"{name}: {case['name']}"
            schemas = [pl.DataFrame(rows).schema for rows in (found, expected)]
            assert schemas[0] == schemas[1], where
            assert rows_of(found) == rows_of(expected), where


def rows_of(rows: pa.Table) -> list[str]:
    return sorted(repr([plain(value) for value in row.values()]) for row in rows.to_pylist())


def at(number: int, hour: int) -> dt.datetime:
    return dt.datetime.combine(night(number), dt.time(hour), dt.UTC)


# On the second night b comes into the core, and ann gets hers of the first one back.
BROUGHT_BACK: Log = [
    (("ann", "a", at(0, 10), None), 0),
    (("ann", "b", at(0, 11), None), 0),
    (("ann", "a", at(0, 12), None), 0),
    (("bob", "b", at(1, 11), None), 1),
    (("bob", "a", at(1, 12), None), 1),
]


@pytest.mark.timeout(1200)
@examples(
    max_examples=2,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@example(log=BROUGHT_BACK, sessions_too=False, smallest=2, details=True)
@given(
    log=LOGS,
    sessions_too=st.booleans(),
    smallest=st.sampled_from([1, 2, 2]),
    details=st.booleans(),
)
def test_histories_equal_those_of_duckdb_on_any_log(
    spark: Spark, log: Log, sessions_too: bool, smallest: int, details: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rules = (sessions_too, smallest, details)
        on_one = history_settings(Path(folder), "one", *rules)
        on_many = on_spark(history_settings(Path(folder), "many", *rules), spark)
        for number in range(NIGHTS):
            deliver(log, Path(folder) / "source", number)
            add_details(Path(folder) / "source" / f"part-{number}.parquet")
            for settings in (on_one, on_many):
                run_step("ingest", settings, night(number))
            compare_histories(on_one, on_many, number)
        compare_histories(on_one, on_many, NIGHTS - 2)  # with what came late meanwhile


def add_details(file: Path) -> None:
    """Give the events of a file types and weights, and some none."""
    row = pl.int_range(pl.len())
    pl.read_parquet(file).with_columns(
        event_type=pl.when(row % 3 == 0).then(pl.lit("buy")).otherwise(pl.lit("view")),
        weight=pl.when(row % 4 > 0).then((row % 3).cast(pl.Float64)),
    ).write_parquet(file)


def history_settings(
    folder: Path, name: str, sessions_too: bool, smallest: int, details: bool
) -> Settings:
    return load_settings(
        lake={"root": folder / name},
        source={"path": str(folder / "source")},
        sequences={
            "last_events": LAST_EVENTS,
            "session_minutes": SESSION / dt.timedelta(minutes=1) if sessions_too else 0,
            "min_user_events": smallest,
            "min_item_events": smallest,
        },
        model={"target_types": ["buy"] if details else []},
        duckdb={"threads": 1},
    )


def compare_histories(on_one: Settings, on_many: Settings, number: int) -> None:
    """Build a night's histories on both engines, and see that all tables are the same."""
    summaries = []
    for settings in (on_one, on_many):
        try:
            summaries.append(run_step("build-sequences", settings, night(number)))
        except SettingsError as error:  # too few events for any history
            summaries.append({"refused": str(error)})
    assert summaries[0] == summaries[1]
    for which in BUILT:
        assert built(on_one, which) == built(on_many, which)
    cores = [table(settings, tables.SEQUENCE_INPUTS) for settings in (on_one, on_many)]
    assert_frame_equal(*(rows.select("dt", "core_items") for rows in cores))
    assert not list(Path(on_many.lake.root).rglob("staged-*"))


def built(settings: Settings, which: tables.Table) -> list[dict[str, Any]]:
    return sorted(table(settings, which).to_dicts(), key=repr)


def test_an_executor_that_is_killed_costs_no_row(tmp_path: Path, spark: Spark) -> None:
    log: Log = [((f"u{n % 7}", f"i{n % 5}", at(0, n % 24), None), 0) for n in range(200)]
    deliver(log, tmp_path / "source", 0)
    on_one = history_settings(tmp_path, "one", True, 2, False)
    run_step("ingest", on_one, night(0))
    shutil.copytree(tmp_path / "one", tmp_path / "many")
    on_many = on_spark(history_settings(tmp_path, "many", True, 2, False), spark)
    killed = threading.Event()

    def kill() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            # In the middle: the core is looked for.
            if next((tmp_path / "many" / "sequences").glob("staged-*/core_users-*"), None):
                for executor in spark.executors()[:1]:
                    executor.kill()
                    killed.set()
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    compare_histories(on_one, on_many, 0)
    killer.join()
    assert killed.is_set()
