"""Nights through a real Airflow: scheduler, executor, REST API, Airflow's own backfill."""

import datetime as dt
import json
import runpy
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import polars as pl
import pytest

from local.client import DAG_ID, TRIES, Airflow
from local.generator import generate
from local.services import airflow, environment, free_port
from tasks.lake import Lake, tables
from tasks.lake.tables import Table
from tasks.settings import REPO
from tests.servers import webhook

EXAMPLE = REPO / "docs" / "examples" / "events_by_intent.py"
EVENTS_BY_INTENT = runpy.run_path(str(EXAMPLE))["EVENTS_BY_INTENT"]
pytestmark = pytest.mark.slow
NIGHTS = [dt.date(2026, 3, 1) + dt.timedelta(days=days) for days in range(5)]
WIPED = NIGHTS[2:4]
COMPARED = (
    tables.EVENTS,
    tables.MODELS,
    tables.METRICS,
    tables.INTENT_LABELS,
    tables.LABEL_EVIDENCE,
    tables.INTENT_PROFILES,
)
MODEL = {"n_intents": 3, "max_epochs": 1, "warm_epochs": 1, "device": "cpu", "threads": 1}
WITHIN = 500  # seconds that a busy machine may take for what takes less than 40
# Tasks are forks of the scheduler: what it has imported, none of the hundred tasks imports again.
PRELOAD = """
import sys
if "scheduler" in sys.argv:
    import polars, deltalake, duckdb, torch
    import tasks.night.evaluate, tasks.night.ingest, tasks.night.label, tasks.night.promote
    import tasks.night.quality, tasks.night.sequences, tasks.night.train
"""


class Nights:
    """A running Airflow whose nights write one lake."""

    def __init__(self, running: Airflow, settings: dict[str, Any]) -> None:
        self.running = running
        self.env = environment(running.home, int(running.url.rpartition(":")[2]), settings)
        self.lake = Lake(settings["lake.root"])

    def airflow(self, *arguments: str) -> str:
        """Run an Airflow command as a person does."""
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=self.env, cwd=self.running.home, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def call(self, method: str, path: str, dag: str, body: Any = None) -> dict[str, Any]:
        """Call the REST API below a DAG."""
        return self.running._ask(method, f"/api/v2/dags/{dag}{path}", body, TRIES)

    def backfill(self, first: dt.date, last: dt.date, *more: str) -> list[str]:
        """Create a backfill, wait until it is done, and return the states of its runs."""
        self.until_no_backfill_is_open()
        dates = ["--from-date", str(first), "--to-date", str(last)]
        # Two writers of large transactions are too many for SQLite: the scheduler has to pause.
        self.call("PATCH", "", DAG_ID, {"is_paused": True})
        self.airflow("backfill", "create", "--dag-id", DAG_ID, *dates, *more)
        self.call("PATCH", "", DAG_ID, {"is_paused": False})
        which = f"logical_date_gte={first}T00:00:00Z&logical_date_lte={last}T00:00:00Z"
        return self.ended(DAG_ID, (last - first).days + 1, which)

    def until_no_backfill_is_open(self) -> None:
        """Airflow looks every half minute whether one is complete, and takes one at a time."""
        path = f"/api/v2/backfills?dag_id={DAG_ID}"
        deadline = time.monotonic() + WITHIN
        while True:
            backfills = self.running._ask("GET", path, None, TRIES)["backfills"]
            if all(backfill["completed_at"] for backfill in backfills):
                return
            assert time.monotonic() < deadline
            time.sleep(0.5)

    def ended(self, dag: str, number: int, which: str = "") -> list[str]:
        """Wait until so many runs are there and none goes on; return their states."""
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            self.running.check_alive()
            runs = self.call("GET", f"/dagRuns?limit=100&{which}", dag)["dag_runs"]
            states = [run["state"] for run in runs]
            if len(runs) >= number and set(states) <= {"success", "failed"}:
                return states
            time.sleep(0.5)
        raise AssertionError(f"{dag}: {[(run['dag_run_id'], run['state']) for run in runs]}")

    def rows(self, table: Table) -> pl.DataFrame:
        """Read a table in an order that does not depend on files."""
        rows = self.lake.scan(table).collect()
        return rows.sort(*(c for c, kind in rows.schema.items() if not kind.is_nested()))


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Receive alerts on loopback: the address, and what was posted."""
    with webhook() as received:
        yield received


@pytest.fixture(scope="module")
def nights(
    tmp_path_factory: pytest.TempPathFactory, told: tuple[str, list[dict[str, Any]]]
) -> Iterator[Nights]:
    folder = tmp_path_factory.mktemp("airflow")
    generated = generate(
        folder, users=60, items=40, intents=3, nights=8, last_night=NIGHTS[-1], seed=5
    )
    settings = {
        "lake.root": folder / "lake",
        "source.path": generated.events,
        "promote.force": True,
        "alerts.webhook": "on_call",
        "duckdb.threads": 1,
        "airflow.retry_delay_minutes": 0.05,
        **{f"model.{name}": value for name, value in MODEL.items()},
        "model.overrides.dim": 8,
    }
    dags = folder / "dags"
    dags.mkdir()
    for file in (*(REPO / "dags").glob("*.py"), EXAMPLE):
        (dags / file.name).symlink_to(file)
    real = environment
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "preload.py").write_text(PRELOAD)
    (plugins / "run_notes.py").symlink_to(REPO / "plugins" / "run_notes.py")
    with_example = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
    }
    patch = pytest.MonkeyPatch()
    patch.setenv("AIRFLOW_CONN_ON_CALL", json.dumps({"conn_type": "http", "host": told[0]}))
    patch.setattr("local.services.environment", lambda *given: real(*given) | with_example)
    services = {"api-server": ["api-server"], "scheduler": ["scheduler", "--skip-serve-logs"]}
    with airflow(folder / "home", free_port(), services, settings) as running:
        # Unpaused, the DAG would run yesterday's night by its schedule.
        with closing(sqlite3.connect(running.home / "airflow.db", timeout=30)) as database:
            database.execute("UPDATE dag SET next_dagrun_create_after = '2999-01-01'")
            database.commit()
        nights = Nights(running, settings)
        for dag in (DAG_ID, "relabel", EXAMPLE.stem):
            nights.call("PATCH", "", dag, {"is_paused": False})
        yield nights
    patch.undo()


@pytest.fixture(scope="module")
def undisturbed(nights: Nights) -> dict[str, pl.DataFrame]:
    """Run five nights, and keep what they left."""
    assert nights.backfill(NIGHTS[0], NIGHTS[-1], "--max-active-runs", "1") == ["success"] * 5
    return {table.name: nights.rows(table) for table in COMPARED}


def test_relabelled_nights_have_the_labels_of_the_named_model(
    nights: Nights, undisturbed: dict[str, pl.DataFrame]
) -> None:
    version = undisturbed["models"]["model_version"][-1]
    conf = {"from": str(WIPED[0]), "to": str(WIPED[-1]), "version": version}
    nights.call("POST", "/dagRuns", "relabel", {"logical_date": None, "conf": conf})
    assert nights.ended("relabel", 1) == ["success"]
    models = dict(nights.rows(tables.INTENT_LABELS).select("dt", "model_version").iter_rows())
    assert [models[night] == version for night in NIGHTS] == [False, False, True, True, True]


def test_a_backfill_of_two_wiped_nights_equals_the_nights_that_were(
    nights: Nights, undisturbed: dict[str, pl.DataFrame]
) -> None:
    versions = undisturbed["models"].filter(pl.col("dt").is_in(WIPED))["model_version"]
    for table in tables.TABLES.values():
        if "dt" in table.partition_by and nights.lake.files(table):
            nights.lake.replace(table, table.schema.empty_table(), nights=WIPED)
    for version in versions:
        shutil.rmtree(nights.lake.model_dir(version))
    assert nights.rows(tables.INTENT_LABELS)["dt"].n_unique() == 3

    again = nights.backfill(*WIPED, "--max-active-runs", "1", "--reprocess-behavior", "completed")
    assert again == ["success"] * 2
    for name, before in undisturbed.items():
        assert before.height and nights.rows(tables.TABLES[name]).equals(before), name


def test_labels_of_a_date_run_what_is_scheduled_on_them(
    nights: Nights, undisturbed: dict[str, pl.DataFrame]
) -> None:
    """Each relabelled and each backfilled night does, too."""
    number = len(NIGHTS) + 2 * len(WIPED)
    assert nights.ended(EXAMPLE.stem, number) == ["success"] * number
    counted = nights.rows(Table("events_by_intent", EVENTS_BY_INTENT))
    assert counted["dt"].unique().sort().to_list() == NIGHTS
    events = undisturbed["events"].filter(pl.col("dt").is_in(NIGHTS))
    assert counted["events"].sum() == events.height


def test_a_run_shows_its_night_whoever_started_it(
    nights: Nights, undisturbed: dict[str, pl.DataFrame]
) -> None:
    which = f"logical_date_gte={NIGHTS[0]}T00:00:00Z"
    runs = nights.call("GET", f"/dagRuns?limit=100&{which}", DAG_ID)["dag_runs"]
    for run in runs:
        assert run["note"] == f"Night {run['logical_date'][:10]}"


def test_a_night_before_the_first_event_fails_with_a_sentence_that_is_told(
    nights: Nights,
    undisturbed: dict[str, pl.DataFrame],
    told: tuple[str, list[dict[str, Any]]],
) -> None:
    conf = {"night": "2025-12-24"}
    body = {"dag_run_id": "too-early", "logical_date": None, "conf": conf}
    nights.call("POST", "/dagRuns", DAG_ID, body)
    assert "failed" in nights.ended(DAG_ID, len(NIGHTS) + 1)
    [failure] = [body for body in told[1] if body["event"] == "task_failed"]
    assert "has no folder from dt=2025-12-20 to 2025-12-25" in failure["text"]
    assert (failure["run"], failure["task"]) == ("too-early", "ingest")
    run = nights.call("GET", "/dagRuns/too-early", DAG_ID)
    assert run["note"] == "Night 2025-12-24"
    log = nights.running.home / "logs" / f"dag_id={DAG_ID}" / "run_id=too-early"
    (attempt,) = (log / "task_id=ingest").iterdir()
    lines = [json.loads(line) for line in attempt.read_text().splitlines()]
    assert not any("error_detail" in line for line in lines), "frames"
    said = [line for line in lines if not str(line["event"]).startswith("::")]
    assert said[-1]["event"] == failure["text"] and said[-1]["level"] == "error"
    for name, before in undisturbed.items():
        assert nights.rows(tables.TABLES[name]).equals(before), name
