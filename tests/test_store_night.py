"""Nights on a lake in a store: the tables of a folder, row for row, and a training that goes on."""

import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.lake import MODELS, PAGES, TRAINING, Lake, tables
from tasks.night import train
from tasks.settings import Settings
from tasks.steps import STEPS, run_step
from tests.places import Place, bucket, store  # noqa: F401 - a fixture
from tests.tasks.night.test_backfill import MODEL, NIGHTS, write_source
from tests.tasks.nights import small_settings, table

pytestmark = [pytest.mark.slow, pytest.mark.servers]

# What says when and where a step ran.
OF_A_RUN = {"steps", "label_revisions", "taken_out"}


def settings_at(root: Place, source: Path) -> Settings:
    return small_settings(
        root,
        model=MODEL,
        source={"path": str(source)},
        promote={"force": True},
        recommend={"top_k": 5},
        quality={"max_label_share": 1.0, "max_new_item_share": 1.0},
        duckdb={"threads": 1, "temp_directory": str(source.parent / "scratch")},
    )


@pytest.fixture(scope="module")
def lakes(
    tmp_path_factory: pytest.TempPathFactory,
    store: str,  # noqa: F811
) -> Iterator[tuple[Settings, Settings]]:
    """Run two nights in a folder, and in a store, where the first training is stopped."""
    folder = tmp_path_factory.mktemp("store_night")
    source = write_source(folder / "events")
    with bucket(store) as url:
        in_folder, in_store = (
            settings_at(root, source) for root in (folder / "lake", f"{url}/lake")
        )
        for settings in (in_folder, in_store):
            for night in NIGHTS[:2]:
                for step in STEPS:
                    if step == "train" and settings is in_store and night == NIGHTS[0]:
                        stop_after_an_epoch(settings, night)
                    run_step(step, settings, night)
        yield in_folder, in_store


def stop_after_an_epoch(settings: Settings, night: dt.date) -> None:
    def stop(*_: Any) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "epoch_line", stop)
        with pytest.raises(KeyboardInterrupt):
            run_step("train", settings, night)
    lake, heard = Lake(settings.lake.root), logging.getLogger("elcrec.estimator")
    kept = [file.path.rpartition("/")[2] for file in lake.storage.files(TRAINING)]
    assert kept == ["training-1.safetensors", "training.json"]
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    heard.addHandler(handler)
    level = heard.level
    heard.setLevel(logging.INFO)
    try:
        run_step("train", settings, night)
    finally:
        heard.removeHandler(handler)
        heard.setLevel(level)
    assert "training goes on after epoch 1, from its checkpoint" in records


@pytest.mark.parametrize("name", [name for name in tables.TABLES if name not in OF_A_RUN])
def test_tables_in_a_store_are_those_in_a_folder(
    lakes: tuple[Settings, Settings], name: str
) -> None:
    in_folder, in_store = (table(settings, tables.TABLES[name]) for settings in lakes)
    own = [column for column in ("inputs", "files", "data_files") if column in in_folder.columns]
    assert in_store.drop(own).equals(in_folder.drop(own))


def test_models_and_pages_are_there_and_nothing_is_left_of_trainings(
    lakes: tuple[Settings, Settings], tmp_path: Path
) -> None:
    here, there = (Lake(settings.lake.root).storage for settings in lakes)
    for what in (MODELS, PAGES):
        assert [one.path for one in there.files(what)] == [one.path for one in here.files(what)]
    assert there.folders(TRAINING) == []
    scratch = Path(lakes[1].duckdb.temp_directory)
    assert not list(scratch.glob("elcrec-*")), "copies are removed"
