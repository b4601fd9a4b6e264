"""Upkeep: what is too old goes, what is needed stays whatever its age."""

import datetime as dt
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from elcrec import Labels
from tasks import steps
from tasks.chores.upkeep import KEPT_BY, upkeep
from tasks.errors import LakeError
from tasks.lake import MODELS, NOT_OF_THE_LAKE, PAGES, TRAINING, Lake, model_folder, tables
from tasks.lake.storage import File
from tasks.lake.tables import Table
from tasks.settings import REPO, Settings, load_settings
from tests.places import Place, age, put
from tests.tasks.nights import table

LAST = dt.date(2026, 11, 20)
NIGHTS = [LAST - dt.timedelta(days=age) for age in range(9, -1, -1)]
PER_NIGHT = [one for one in tables.TABLES.values() if "dt" in one.partition_by]


@pytest.fixture
def lake(ten_nights: Path, tmp_path: Path) -> Lake:
    """Give a private copy of the lake of ten nights, in a folder."""
    shutil.copytree(ten_nights, tmp_path / "lake")
    return Lake(tmp_path / "lake")


@pytest.fixture
def anywhere(ten_nights: Path, root: Place) -> Lake:
    """Give a private copy of the lake of ten nights, in a folder and in a store."""
    put(ten_nights, root)
    return Lake(root)


@pytest.fixture(scope="module")
def ten_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a lake of ten nights with a row a night in each table, and a model each."""
    lake = Lake(tmp_path_factory.mktemp("upkeep") / "lake")
    for which in PER_NIGHT:
        write(lake, which, *({"dt": night} for night in NIGHTS))
    write_models(lake)
    for night in NIGHTS:
        page = lake.root / "quality" / night.isoformat() / "events" / "page.html"
        page.parent.mkdir(parents=True)
        page.write_text("found")
    return lake.root


def write(lake: Lake, which: Table, *rows: dict[str, Any]) -> None:
    if which is tables.STEPS:
        long_ago = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        rows = tuple(
            {"step": "label", "started_at": long_ago, "seconds": 1.0, **row} for row in rows
        )
    nights = [row["dt"] for row in rows]
    lake.replace(which, pa.Table.from_pylist(list(rows), schema=which.schema), nights=nights)


def version(night: dt.date) -> str:
    return f"{night:%Y%m%d}-00000000"


def write_models(lake: Lake, *promoted: dt.date) -> None:
    """Register a model a night, these promoted, and make its folder where it has none."""
    rows: list[dict[str, Any]] = [
        {"dt": night, "model_version": version(night), "promoted": night in promoted}
        for night in NIGHTS
    ]
    write(lake, tables.MODELS, *rows)
    for night in NIGHTS:
        lake.storage.write(f"{model_folder(version(night))}/model.json", b"{}")


def settings_for(lake: Lake, **retention: int) -> Settings:
    return load_settings(
        lake={"root": lake.root},
        retention={f"{name.removesuffix('_nights')}_nights": 0 for name in KEPT_BY.values()}
        | {"models_nights": 0, "pages_nights": 0, "min_age_hours": 0}
        | retention,
    )


def models_left(lake: Lake) -> list[str]:
    return lake.storage.folders(MODELS)


def everything(lake: Lake) -> list[File]:
    return [
        file for file in lake.storage.files() if not file.path.startswith(tuple(NOT_OF_THE_LAKE))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "setting"), KEPT_BY.items(), ids=lambda given: str(getattr(given, "name", given))
)
def test_each_table_keeps_the_nights_of_its_setting(lake: Lake, which: Table, setting: str) -> None:
    summary = upkeep(settings_for(lake, **{setting: 3}))
    assert lake.nights(which) == NIGHTS[-3:]
    assert summary["nights"][which.name] == [night.isoformat() for night in NIGHTS[:-3]]
    for other in PER_NIGHT:
        if KEPT_BY.get(other) != setting:
            assert lake.nights(other) == NIGHTS, other.name


def test_zero_keeps_all(lake: Lake) -> None:
    summary = upkeep(settings_for(lake))
    assert [lake.nights(which) for which in PER_NIGHT] == [NIGHTS] * len(PER_NIGHT)
    assert not any(summary[kind] for kind in ("nights", "models", "trainings", "pages"))


@pytest.mark.slow
def test_age_is_counted_from_the_newest_night_and_not_from_today(lake: Lake) -> None:
    for which in PER_NIGHT:
        write(lake, which, {"dt": LAST + dt.timedelta(days=100)})
    upkeep(settings_for(lake, events_nights=101, labels_nights=102))
    assert lake.nights(tables.EVENTS) == [LAST, LAST + dt.timedelta(days=100)]
    assert lake.nights(tables.INTENT_LABELS)[:2] == NIGHTS[-2:]


@pytest.mark.slow
def test_a_dry_run_lists_the_same_and_touches_nothing(anywhere: Lake) -> None:
    lake = anywhere
    settings = settings_for(lake, events_nights=2, models_nights=1, pages_nights=4)
    lake.storage.write(f"{TRAINING}/killed/checkpoints/last", b"")
    before = everything(lake)
    told = upkeep(settings, dry_run=True)
    assert everything(lake) == before
    done = upkeep(settings)
    assert (told.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert told == done
    assert everything(lake) != before
    nothing = upkeep(settings)
    kinds = ("nights", "models", "trainings", "pages")
    assert not any(nothing[kind] for kind in kinds)
    # The files of the nights that went first.
    assert nothing["old_files"]["events"] == len(NIGHTS) - 2
    assert upkeep(settings)["old_files"] == {}


def test_a_night_that_was_worked_on_lately_stays(anywhere: Lake) -> None:
    lake = anywhere
    now = dt.datetime.now(dt.UTC)
    write(lake, tables.STEPS, {"dt": NIGHTS[0], "started_at": now - dt.timedelta(hours=30)})
    # Half an hour ago by its end.
    began = {"started_at": now - dt.timedelta(hours=24), "seconds": 23.5 * 3600.0}
    write(lake, tables.STEPS, {"dt": NIGHTS[1], **began})
    limits = {"events_nights": 2, "sequences_nights": 2, "pages_nights": 2, "models_nights": 2}
    upkeep(settings_for(lake, **limits, min_age_hours=1))
    kept = [NIGHTS[1], *NIGHTS[-2:]]
    assert lake.nights(tables.EVENTS) == kept
    # And the night before it, whose histories it may still be adding its events to.
    assert lake.nights(tables.SEQUENCES) == [NIGHTS[0], *kept]
    assert lake.storage.folders(PAGES) == [night.isoformat() for night in kept]


def test_models_that_label_and_the_one_before_stay_with_their_histories(anywhere: Lake) -> None:
    lake = anywhere
    write_models(lake, NIGHTS[1], NIGHTS[3], NIGHTS[4])
    upkeep(settings_for(lake, models_nights=2, sequences_nights=2))
    kept = [NIGHTS[3], NIGHTS[4], *NIGHTS[-2:]]
    assert models_left(lake) == [version(night) for night in kept]
    assert lake.nights(tables.SEQUENCES) == kept
    assert lake.nights(tables.SEQUENCE_INPUTS) == kept
    # Who labelled when is told by the table, whose rows stay.
    assert lake.nights(tables.MODELS) == NIGHTS


def test_the_model_of_the_last_training_from_scratch_stays_to_be_compared_with(lake: Lake) -> None:
    rows = [
        {
            "dt": night,
            "model_version": version(night),
            "promoted": True,
            "warm": number not in (0, 2),
            "parent_version": version(NIGHTS[number - 1]) if number else None,
        }
        for number, night in enumerate(NIGHTS)
    ]
    write(lake, tables.MODELS, *rows)
    upkeep(settings_for(lake, models_nights=1, sequences_nights=1))
    assert models_left(lake) == [version(night) for night in (NIGHTS[2], *NIGHTS[-2:])]
    # It is measured on the histories of tonight, and needs none of its own.
    assert lake.nights(tables.SEQUENCES) == NIGHTS[-2:]


def test_a_backfill_that_goes_on_keeps_the_models_of_its_own_time(anywhere: Lake) -> None:
    lake = anywhere
    write_models(lake, NIGHTS[0], NIGHTS[1], NIGHTS[2], NIGHTS[6], NIGHTS[7])
    write(lake, tables.STEPS, {"dt": NIGHTS[3], "started_at": dt.datetime.now(dt.UTC)})
    age(lake.root, MODELS, hours=2)
    upkeep(settings_for(lake, models_nights=1, min_age_hours=1))
    kept = [NIGHTS[1], NIGHTS[2], NIGHTS[3], NIGHTS[6], NIGHTS[7], NIGHTS[9]]
    assert models_left(lake) == [version(night) for night in kept]


def test_what_killed_trainings_left_goes_when_it_is_old(anywhere: Lake) -> None:
    lake = anywhere
    for name in ("old", "fresh"):
        lake.storage.write(f"{TRAINING}/{name}/checkpoints/last", b"")
        age(lake.root, f"{TRAINING}/{name}", hours=30)
    lake.storage.write(f"{TRAINING}/fresh/checkpoints/last", b"")
    summary = upkeep(settings_for(lake, min_age_hours=24))
    assert summary["trainings"] == ["model_files/.training/old"]
    assert lake.storage.folders(TRAINING) == ["fresh"]


def test_a_folder_of_no_registered_model_goes_when_it_is_old(anywhere: Lake) -> None:
    lake = anywhere
    for name, hours in (("old", 30), ("fresh", 20)):
        lake.storage.write(f"{model_folder(name)}/weights", b"")
        age(lake.root, model_folder(name), hours=hours)
    summary = upkeep(settings_for(lake, models_nights=100, min_age_hours=24))
    assert summary["models"] == ["model_files/old"]
    assert lake.has_model("fresh")


def test_files_of_old_versions_go_when_they_are_old_and_readers_of_the_last_one_go_on(
    anywhere: Lake,
) -> None:
    lake = anywhere

    def data_files() -> int:
        return len(lake.data_files(tables.EVENTS))

    write(lake, tables.EVENTS, {"dt": NIGHTS[0], "user_id": "new"})
    assert data_files() == len(NIGHTS) + 1
    reader = lake.scan(tables.EVENTS)
    assert upkeep(settings_for(lake, min_age_hours=1))["old_files"] == {}
    assert data_files() == len(NIGHTS) + 1
    summary = upkeep(settings_for(lake))
    assert summary["old_files"]["events"] == 1
    assert summary["old_files_mb"] >= 0
    assert data_files() == len(NIGHTS)
    assert reader.collect().height == len(NIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "which", [tables.SEQUENCES, tables.INTENT_LABELS], ids=lambda one: one.name
)
def test_what_the_next_night_or_a_backfill_goes_on_from_stays(lake: Lake, which: Table) -> None:
    for night in NIGHTS[-3:]:
        lake.replace(which, which.schema.empty_table(), nights=[night])
    write(lake, tables.STEPS, {"dt": NIGHTS[3], "started_at": dt.datetime.now(dt.UTC)})
    upkeep(settings_for(lake, sequences_nights=1, labels_nights=1, min_age_hours=1))
    assert lake.nights(which) == [NIGHTS[2], NIGHTS[3], NIGHTS[-4]]


@pytest.mark.slow
def test_a_catalogue_stays_as_long_as_a_night_that_reads_it(lake: Lake) -> None:
    for night in (*NIGHTS[1:4], *NIGHTS[5:]):
        lake.replace(tables.CATALOGUE, tables.CATALOGUE.schema.empty_table(), nights=[night])
    # Left are those of the nights 0 and 4. The labels of the nights from 5 on stay.
    upkeep(settings_for(lake, labels_nights=5))
    assert lake.nights(tables.CATALOGUE) == [NIGHTS[4]]


@pytest.mark.slow
def test_a_catalogue_stays_that_a_backfill_reads(lake: Lake) -> None:
    for night in NIGHTS[1:4]:
        lake.replace(tables.CATALOGUE, tables.CATALOGUE.schema.empty_table(), nights=[night])
    write(lake, tables.STEPS, {"dt": NIGHTS[3], "started_at": dt.datetime.now(dt.UTC)})
    upkeep(settings_for(lake, labels_nights=1, min_age_hours=1))
    # Of the night before the backfilled one the labels stay, too: both read the first catalogue.
    assert lake.nights(tables.CATALOGUE) == [NIGHTS[0], NIGHTS[-1]]


def test_a_lake_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="there is no lake at"):
        upkeep(load_settings(lake={"root": tmp_path / "none"}))
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_command_lists_what_would_go(lake: Lake) -> None:
    command = [sys.executable, "-m", "tasks", "upkeep", "--dry-run", "--lake", str(lake.root)]
    more = ["--set", "retention.events_nights=9", "--set", "retention.min_age_hours=0"]
    told = subprocess.run([*command, *more], cwd=REPO, capture_output=True, text=True, check=True)
    assert f'"events": [\n      "{NIGHTS[0]}"\n    ]' in told.stdout
    assert lake.nights(tables.EVENTS) == NIGHTS


@pytest.mark.slow
def test_upkeep_waits_for_a_step_and_removes_nothing_that_it_reads(night_done: Settings) -> None:
    lake = Lake(night_done.lake.root)
    night = lake.nights(tables.SEQUENCES)[-1]
    histories = lake.scan(tables.SEQUENCES).collect()
    before = table(night_done, tables.INTENT_LABELS)
    lake.replace(tables.SEQUENCES, histories, nights=[night])  # files of an old version
    processes = multiprocessing.get_context("spawn")
    reading, go_on = processes.Event(), processes.Event()
    step = processes.Process(target=label_slowly, args=(night_done, night, reading, go_on))
    step.start()
    assert reading.wait(60)
    # It has the files of histories open, or will open them, and now another version replaces them.
    lake.replace(tables.SEQUENCES, histories, nights=[night])
    there = sorted(lake.path(tables.SEQUENCES).rglob("*.parquet"))
    command = [sys.executable, "-m", "tasks", "upkeep", "--lake", str(lake.root)]
    command += ["--set", "retention.min_age_hours=0"]
    with subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as upkeep_process:
        assert upkeep_process.stderr is not None
        assert "waiting until the steps that run" in upkeep_process.stderr.readline()
        assert sorted(lake.path(tables.SEQUENCES).rglob("*.parquet")) == there
        go_on.set()
        step.join()
        printed, errors = upkeep_process.communicate(timeout=60)
    assert step.exitcode == 0
    assert upkeep_process.returncode == 0, errors
    assert json.loads(printed)["old_files"]["sequences"] == 2
    assert table(night_done, tables.INTENT_LABELS).equals(before)


def label_slowly(settings: Settings, night: dt.date, reading: Event, go_on: Event) -> None:
    """Run the step `label`, which stands still when it has listed the files it will read."""
    from tasks.night import label

    plain = label.label_batch

    def slow(*given: Any, **more: Any) -> Labels:
        reading.set()
        assert go_on.wait(60)
        return plain(*given, **more)

    label.label_batch = slow
    steps.run_step("label", settings, night)
    os._exit(0)


@pytest.mark.slow
def test_a_promoted_model_labels_after_upkeep_and_the_night_can_run_again(
    night_done: Settings,
) -> None:
    lake = Lake(night_done.lake.root)
    night = lake.nights(tables.SEQUENCES)[-1]
    write(lake, tables.INGESTS, {"dt": night + dt.timedelta(days=300)})
    before = table(night_done, tables.INTENT_LABELS)
    strict = dict.fromkeys((*set(KEPT_BY.values()), "models_nights", "pages_nights"), 1)
    strict["labels_nights"] = 0
    changed = night_done.model_copy(update={"retention": settings_for(lake, **strict).retention})
    upkeep(changed)
    assert steps.run_step("train", changed, night)["trained"] is False
    steps.run_step("label", changed, night)
    assert table(night_done, tables.INTENT_LABELS).equals(before)
