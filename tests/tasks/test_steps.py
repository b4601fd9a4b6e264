"""Running a step: the night is checked, the run is recorded, errors come through."""

import datetime as dt
import json
import logging
import os
import pwd
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import LakeError, NightError, SourceError
from tasks.lake import Lake, tables
from tasks.settings import REPO, LakeSettings, Settings, load_settings
from tasks.steps import STEPS, Step, run_step

NIGHT = dt.date(2026, 11, 2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "a.csv").write_text("user_id,item_id,ts\nann,a,2026-11-02\n")
    return load_settings(
        source={"path": str(tmp_path / "a.csv")}, lake={"root": str(tmp_path / "lake")}
    )


def recorded(settings: Settings) -> list[dict[str, Any]]:
    return Lake(settings.lake.root).scan(tables.STEPS).collect().to_dicts()


@pytest.mark.slow
def test_a_run_is_recorded_once_however_often_it_is_repeated(settings: Settings) -> None:
    for _ in range(2):
        summary = run_step("ingest", settings, NIGHT)
    run_step("build-sequences", settings, NIGHT)
    by_step = {row["step"]: row for row in recorded(settings)}
    assert len(recorded(settings)) == len(by_step) == 2
    row = by_step["ingest"]
    assert json.loads(row["summary"]) == summary
    assert row["dt"] == NIGHT
    assert row["seconds"] > 0
    assert row["peak_mb"] > 10


@pytest.mark.parametrize("done_before", [False, True])
def test_a_step_that_fails_keeps_its_error_and_leaves_no_record(
    settings: Settings, done_before: bool
) -> None:
    if done_before:
        run_step("ingest", settings, NIGHT)
        run_step("build-sequences", settings, NIGHT)
    Path(settings.source.path).write_text("")
    with pytest.raises(SourceError, match="is empty"):
        run_step("ingest", settings, NIGHT)
    assert [row["step"] for row in recorded(settings)] == ["build-sequences"] * done_before


@pytest.mark.parametrize(
    ("step", "turn", "waits"),
    [
        ("ingest", f"steps of night {NIGHT}", True),
        ("ingest", "ingest", True),
        ("build-sequences", f"steps of night {NIGHT}", True),
        ("build-sequences", "ingest", False),
        ("build-sequences", f"steps of night {NIGHT - dt.timedelta(days=1)}", False),
    ],
)
def test_steps_of_a_night_and_ingests_of_all_nights_take_turns(
    settings: Settings, step: str, turn: str, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run_step("ingest", settings, NIGHT)
    caplog.set_level(logging.INFO, "tasks.lake.storage")
    held, done = threading.Event(), threading.Event()

    def said() -> list[str]:  # by the lake alone, for steps log at a level that others have set
        return [one.getMessage() for one in caplog.records if one.name == "tasks.lake.storage"]

    def another() -> None:
        with Lake(settings.lake.root).turn(turn):
            held.set()
            while not said() and not done.wait(0.001):
                pass

    with ThreadPoolExecutor(1) as threads:
        threads.submit(another)
        assert held.wait(10)
        run_step(step, settings, NIGHT)
        done.set()
    told = [f"{settings.lake.root}: waiting until another run has ended its {turn}"]
    assert said() == told * waits


@pytest.mark.slow
def test_a_lake_that_cannot_be_written_to_is_named(settings: Settings) -> None:
    # Root may write anywhere, so another user tries, in a folder that it can reach.
    other = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = Path(open_to_all)
        folder.chmod(0o755)
        (folder / "lake").mkdir(mode=0o555)
        code = "from tests.tasks.test_steps import lock_as; import sys; lock_as(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(folder / "lake"), str(other)]
        tried = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert tried.returncode == 2, tried.stderr
    assert tried.stderr.startswith(f"the lake at {folder / 'lake'} cannot be written to (Permis")
    assert "correct lake.root" in tried.stderr and tried.stderr.count("\n") == 1


def test_a_lake_whose_name_no_disk_takes_is_named(settings: Settings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(update={"lake": LakeSettings(root=tmp_path / ("x" * 300))})
    with pytest.raises(LakeError, match=r"cannot be written to \(File name too long.*lake\.root"):
        run_step("ingest", nowhere, NIGHT)


def lock_as(root: str, user: str) -> None:
    """Use a lake as another user does; what goes wrong is printed."""
    if user != "None":
        os.setuid(pwd.getpwnam(user).pw_uid)
    try:
        with Lake(root).in_use():
            sys.exit(0)
    except LakeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@pytest.mark.parametrize("days", [0, 1, 400])
def test_a_night_that_is_not_over_is_refused(settings: Settings, days: int) -> None:
    today = dt.datetime.now(dt.UTC).date()
    with pytest.raises(NightError, match=f"latest night.*{today - dt.timedelta(days=1)}"):
        run_step("ingest", settings, today + dt.timedelta(days=days))
    assert not settings.lake.root.exists()


def test_yesterday_can_be_run(settings: Settings) -> None:
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    Path(settings.source.path).write_text(f"user_id,item_id,ts\nann,a,{yesterday}\n")
    assert run_step("ingest", settings, yesterday)["rows_events"] == 1


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_every_step_can_be_loaded(step: Step) -> None:
    assert callable(step.load())


@pytest.mark.slow
def test_what_needs_no_model_and_no_check_loads_neither_torch_nor_great_expectations() -> None:
    """Each costs a process more than a second before it does anything."""
    light = [
        "tasks.steps",
        "tasks.registry.inputs",  # `run_step` imports it when a step starts
        "tasks.__main__",
        *(f"tasks.chores.{name}" for name in ("forget", "inspection", "report", "stale", "upkeep")),
        *(
            STEPS[name].target.partition(":")[0]
            for name in ("ingest", "build-sequences", "publish")
        ),
    ]
    code = (
        "import importlib, json, sys\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'great_expectations', 'airflow'}\n"
        "loads = {}\n"
        f"for name in {light}:\n"
        "    importlib.import_module(name)\n"
        "    loads[name] = sorted(heavy & set(sys.modules))\n"
        "print(json.dumps(loads))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {name: [] for name in light}
