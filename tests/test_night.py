"""A whole night, as a person runs it: through Airflow, again, killed, and with bad input."""

import contextlib
import dataclasses
import datetime as dt
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from rich.console import Console

from local.generator import generate
from tasks.__main__ import main
from tasks.chores import report
from tasks.chores.published_scores import DataSet
from tasks.chores.stale import FRESH, standings
from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.settings import Settings, load_settings
from tasks.steps import STEPS, run_step
from tests.needs import needs

REPO = Path(__file__).resolve().parent.parent
NIGHT = dt.date(1998, 4, 22)
USERS = 60  # of the real slice
# A model that trains in seconds; what it is worth is other tests' business.
SMALL = {
    "model.n_intents": 4,
    "model.max_epochs": 2,
    "model.max_length": 20,
    "model.threads": 1,
    "model.overrides": {"dim": 16, "layers": 1},
    "promote.force": True,
}
# What identifies a row, by table: partitions promise no order.
KEYS = {
    tables.EVENTS: ["source", "row_number"],
    tables.ITEMS: ["item_index"],
    tables.SEQUENCES: ["user_id"],
    tables.INTENT_LABELS: ["user_id"],
    tables.LABEL_EVIDENCE: ["user_id"],
    tables.INTENT_PROFILES: ["intent_id"],
}


@dataclasses.dataclass(frozen=True)
class Done:
    """A night that Airflow has run: where, what it printed, and on which addresses it listened."""

    settings: Settings
    home: Path
    printed: str
    listened: frozenset[str]


@pytest.fixture(scope="session")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut a slice out of MovieLens 100K; without it, generate events that end on the same night."""
    named = os.environ.get("ELCREC_DATA")
    folders = [Path(named)] if named else [REPO.parent / "shared" / "data"]
    folder = tmp_path_factory.mktemp("slice")
    for file in (found / "ml-100k.inter" for found in folders):
        if file.is_file():
            header, *rows = file.read_text().splitlines()
            kept = [row for row in rows if int(row.split("\t")[0]) <= USERS]
            (folder / "slice.inter").write_text("\n".join([header, *kept]) + "\n")
            return folder / "slice.inter"
    return generate(
        folder, users=200, items=120, intents=4, nights=10, last_night=NIGHT, seed=5
    ).events


def in_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Write settings as the environment of a process, without those of the person who tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ELCREC_")}
    for key, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value)
        clean[f"ELCREC_{key.replace('.', '__').upper()}"] = text
    return clean


@needs("airflow")
def through_airflow(
    events: Path, lake: Path, home: Path, night: dt.date = NIGHT
) -> tuple[subprocess.CompletedProcess[str], frozenset[str]]:
    """Do what `make run` does, with a home and a lake of its own; watch where it listens."""
    asked = ["--events", str(events), "--night", str(night), "--lake", str(lake)]
    command = [sys.executable, "-m", "local", "run", *asked, "--home", str(home)]
    listened: set[str] = set()
    with subprocess.Popen(
        command,
        cwd=REPO,
        env=in_environment(SMALL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                printed, errors = running.communicate(timeout=0.5)
                break
            listened |= listening(running.pid)
    done = subprocess.CompletedProcess(command, running.returncode, printed, errors)
    return done, frozenset(listened)


def listening(pid: int) -> set[str]:
    """Return the addresses at which a process and all it has started can be reached."""
    found: set[str] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found |= {
                    socket.laddr.ip
                    for socket in process.net_connections(kind="inet")
                    if socket.status == psutil.CONN_LISTEN
                }
    return found


@pytest.fixture(scope="session")
def done(events: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Run the night through Airflow, once for all tests that look at the outcome."""
    folder = tmp_path_factory.mktemp("night")
    run, listened = through_airflow(events, folder / "lake", folder / "airflow")
    assert run.returncode == 0, run.stdout + run.stderr
    settings = load_settings(
        **{**SMALL, "source.path": str(events), "lake.root": str(folder / "lake")}
    )
    return Done(settings, folder / "airflow", run.stdout, listened)


def in_airflow(home: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "airflow.db") as con:
        return con.execute(query).fetchall()


def snapshot(settings: Settings) -> dict[str, pl.DataFrame]:
    lake = Lake(settings.lake.root)
    return {table.name: lake.scan(table).sort(key).collect() for table, key in KEYS.items()}


def test_airflow_ran_every_task_of_the_night_once(done: Done) -> None:
    assert in_airflow(done.home, "SELECT state, run_type FROM dag_run") == [("success", "manual")]
    tasks = in_airflow(done.home, "SELECT task_id, state, try_number FROM task_instance")
    names = ["night", "in_turn", *(name.replace("-", "_") for name in STEPS)]
    assert sorted(tasks) == sorted((name, "success", 1) for name in names)


def test_airflow_is_reached_from_this_machine_only(done: Done) -> None:
    assert done.listened == {"127.0.0.1"}


def test_airflow_announces_the_labels_of_the_night(done: Done) -> None:
    found = in_airflow(done.home, "SELECT extra, partition_key FROM asset_event")
    [(extra, key)] = found
    told = json.loads(extra)
    assert (told["night"], key) == (str(NIGHT), str(NIGHT))
    lake = Lake(done.settings.lake.root)
    assert told["users"] == lake.scan(tables.INTENT_LABELS).collect().height
    assert told["promoted"] is True and lake.model_dir(told["model_version"]).is_dir()
    assert Path(told["labels"]).is_dir() and all(
        map(Path.exists, map(Path, told["pages"].values()))
    )


def test_the_run_shows_its_night(done: Done) -> None:
    assert in_airflow(done.home, "SELECT content FROM dag_run_note") == [(f"Night {NIGHT}",)]


def test_the_labels_are_a_revision_by_the_run_that_made_them(done: Done) -> None:
    [(run,)] = in_airflow(done.home, "SELECT run_id FROM dag_run")
    rows = Lake(done.settings.lake.root).scan(tables.LABEL_REVISIONS).collect()
    assert rows.select("dt", "revision", "run", "why").rows() == [(NIGHT, 1, run, "first run")]
    assert [one.state for one in standings(done.settings)] == [FRESH]


def test_a_night_ends_with_one_label_a_user(done: Done) -> None:
    lake = Lake(done.settings.lake.root)
    labels = lake.scan(tables.INTENT_LABELS).collect()
    users = lake.scan(tables.EVENTS).select("user_id").unique().collect()
    assert labels["dt"].unique().to_list() == [NIGHT]
    assert sorted(labels["user_id"]) == sorted(users["user_id"])
    assert labels["intent_id"].drop_nulls().is_between(0, 3).all()
    steps = lake.scan(tables.STEPS).collect()
    assert sorted(steps["step"]) == sorted(STEPS)
    assert (steps["seconds"] > 0).all() and (steps["peak_mb"] > 50).all()


def test_a_run_ends_with_a_report(done: Done) -> None:
    for said in (
        "intents in use",
        "popularity",
        "NDCG@20",
        "perplexity",
        "Data quality",
        "peak MB",
        str(done.settings.lake.root / "intent_labels"),
    ):
        assert said in done.printed
    assert "epoch 2/2" in done.printed, "the progress of the training"
    pages = re.findall(r"/\S+\.html$", done.printed, flags=re.M)
    assert len(pages) > 3 and all(Path(page).is_file() for page in pages), "paths to be opened"


def test_published_figures_stand_beside_the_data_they_hold_for_only(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "NeurIPS" not in done.printed
    counts = report._counts(Lake(done.settings.lake.root), NIGHT)
    published = DataSet("Slice", {"ELCRec, NeurIPS 2024": {"HR@5": 0.0529}})
    monkeypatch.setitem(report.PUBLISHED, counts, published)
    console = Console(width=120, record=True)
    report.show(done.settings, NIGHT, console=console)
    assert "Slice: ELCRec, NeurIPS 2024" in console.export_text()


def test_the_report_of_a_night_that_never_ran_names_those_that_did(done: Done) -> None:
    with pytest.raises(LakeError, match=f"no labels for night 1990-01-01.*{NIGHT}"):
        report.show(done.settings, dt.date(1990, 1, 1), console=Console())


def test_a_second_run_of_the_same_night_leaves_the_same_tables(done: Done) -> None:
    before = snapshot(done.settings)
    for name in STEPS:
        run_step(name, done.settings, NIGHT)
    for name, table in snapshot(done.settings).items():
        assert table.equals(before[name]), name


# The process is killed at this call of a function that `label` uses, with this many users a batch.
KILLED_AT = {
    "while the labels are being written": ("label_batch", 2, 16),
    "between labels and profiles": ("profile", 1, 65_536),
}


@pytest.mark.parametrize("place", KILLED_AT)
def test_a_run_killed_in_label_and_started_again_leaves_one_partition(
    done: Done, place: str
) -> None:
    function, call, users = KILLED_AT[place]
    before = snapshot(done.settings)
    code = f"""
import datetime, os, signal
import tasks.night.label as step
from tasks.settings import load_settings
from tasks.steps import run_step

original, calls = step.{function}, []

def killed(*given, **named):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given, **named)

step.{function} = killed
step.USERS_A_BATCH = {users}
run_step("label", load_settings(), datetime.date.fromisoformat("{NIGHT}"))
"""
    killed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        env=in_environment({**SMALL, "lake.root": str(done.settings.lake.root)}),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    for name, table in snapshot(done.settings).items():
        assert table.equals(before[name]), f"{name} after the kill"

    run_step("label", done.settings, NIGHT)
    for name, table in snapshot(done.settings).items():
        assert table.equals(before[name]), f"{name} after the second run"
    assert Lake(done.settings.lake.root).nights(tables.INTENT_LABELS) == [NIGHT]


def test_bad_input_is_a_failed_task_with_its_sentence(done: Done, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    run, _ = through_airflow(broken, tmp_path / "lake", done.home)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ingest failed: ")
    assert run.stderr.count("\n") == 1 and "broken.parquet" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    states = in_airflow(
        done.home,
        "SELECT task_id, task_instance.state, try_number"
        " FROM task_instance JOIN dag_run USING (dag_id, run_id)"
        " WHERE dag_run.state = 'failed' AND task_id IN ('ingest', 'check_events')",
    )
    # One try: doing it again cannot mend a file.
    assert sorted(states) == [("check_events", "upstream_failed", 0), ("ingest", "failed", 1)]


# What bad input is, and what the sentence has to name.
Make = Callable[[Path], list[str]]


def _source(path: Path) -> list[str]:
    return ["ingest", "--night", str(NIGHT), "--events", str(path)]


def _written(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text)
    return _source(folder / name)


ROW = '{"user_id": "u", "item_id": "i", "timestamp": 893200000}\n'
BAD: dict[str, tuple[Make, list[str]]] = {
    "an empty file": (lambda f: _written(f, "empty.csv", ""), ["empty.csv"]),
    "a folder without files": (lambda f: _source(f), ["no event files"]),
    "no such path": (lambda f: _source(f / "gone"), ["gone"]),
    "a missing column": (
        lambda f: _written(f, "events.csv", "user_id,timestamp\nu,893200000\n"),
        ["events.csv", "source.item_columns"],
    ),
    "a file that is no Parquet": (
        lambda f: _written(f, "events.parquet", "PAR1 or not"),
        ["events.parquet"],
    ),
    "a JSON line cut short": (
        lambda f: _written(f, "events.jsonl", ROW + '{"user_id": "u", "it'),
        ["events.jsonl", "line 2"],
    ),
    "a night without events": (
        lambda f: [*_written(f, "events.jsonl", ROW)[:2], "2020-01-01", "--events", "@lake"],
        ["2020-01-01"],
    ),
    "an unknown setting": (
        lambda f: ["ingest", "--night", str(NIGHT), "--set", "model.n_intent=8"],
        ["model.n_intent", "did you mean model.n_intents"],
    ),
    "a night to come": (
        lambda f: ["ingest", "--night", "2999-01-01"],
        ["2999-01-01", "not over yet"],
    ),
    "no night at all": (lambda f: ["train", "--night", "yesterday"], ["yesterday", "YYYY-MM-DD"]),
    "all users below the minimum": (
        lambda f: [
            "build-sequences",
            "--night",
            str(NIGHT),
            "--set",
            "sequences.min_user_events=99999",
        ],
        ["sequences.min_user_events"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(
    case: str,
    done: Done,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, named = BAD[case]
    folder = tmp_path / "source"
    folder.mkdir()
    source = done.settings.source.path
    arguments = [source if word == "@lake" else word for word in make(folder)]
    before = snapshot(done.settings)
    monkeypatch.setattr(
        sys, "argv", ["tasks", *arguments, "--lake", str(done.settings.lake.root), "--quiet"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    for word in named:
        assert word in line
    # What was there is as it was, and can be read.
    for name, table in snapshot(done.settings).items():
        assert table.equals(before[name]), name
